# make demo · make test: each sets up its own .venv; nothing else needs to be installed
PYTHON ?= python3
VENV := .venv
EDGE := $(VENV)/bin/edge
INSTALLED := $(VENV)/.installed-demo
INSTALLED_DEV := $(VENV)/.installed-dev

.PHONY: demo test test-slow lint results accuracy clean demo-recipe

demo: $(INSTALLED)
	$(EDGE) demo

test: $(INSTALLED_DEV)
	$(VENV)/bin/python -m pytest -m "not slow"

test-slow: $(INSTALLED_DEV)
	$(VENV)/bin/python -m pytest -m slow

lint: $(INSTALLED_DEV)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

# the figures of docs/results.md; needs the research images (EDGE_DATA) and mosquitto
results: $(INSTALLED_DEV)
	$(VENV)/bin/python -m bench

# the tables of docs/accuracy.md, into var/accuracy.md: about four hours of one core (OMP_NUM_THREADS=1), or two of two
accuracy: $(INSTALLED_DEV)
	$(VENV)/bin/python -m bench.accuracy
	$(VENV)/bin/python -m bench.accuracy --out var/accuracy.md

# how engines/demo and calibration/demo.json were made
demo-recipe: $(INSTALLED_DEV)
	rm -rf var/demo-frames
	$(EDGE) simulate var/demo-frames --parts 60 --defect-share 0 --seed 1 --burst
	$(EDGE) learn var/demo-frames --recipe demo --template '{batch}/{part}_{view}' \
	  --model fragment-cae --scale 0.5 --smooth 1 --peak 16 --steps 900 --seed 1 --threads 2
	rm -rf var/demo-calibration
	$(EDGE) simulate var/demo-calibration --parts 100 --defect-share 0 --seed 2 --burst
	$(EDGE) calibrate var/demo-calibration --recipe demo --template '{batch}/{part}_{view}' --false-reject 0.01

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
