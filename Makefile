# make demo · make test: each sets up its own .venv; nothing else needs to be installed
PYTHON ?= python3
VENV := .venv
EDGE := $(VENV)/bin/edge
TOOLS := $(VENV)/tools
INSTALLED := $(VENV)/.installed-demo
INSTALLED_DEV := $(VENV)/.installed-dev

.PHONY: demo test test-slow lint torture results bench accuracy lock audit clean demo-recipe deb

demo: $(INSTALLED)
	$(EDGE) demo

test: $(INSTALLED_DEV)
	$(VENV)/bin/python -m pytest -m "not slow"

test-slow: $(INSTALLED_DEV)
	$(VENV)/bin/python -m pytest -m slow

# what docs/promises.md rests on, at length: about four hours, two of them the soak; needs mosquitto and gcc
torture: $(INSTALLED_DEV)
	$(VENV)/bin/python -m pytest tests/torture
	$(VENV)/bin/python -m tests.torture.kill_loop --kills 500
	$(VENV)/bin/python -m tests.torture.fuzz --minutes 20
	$(VENV)/bin/python -m bench.recovery
	$(VENV)/bin/python -m bench.bombs
	$(VENV)/bin/python -m bench.drain
	$(VENV)/bin/python -m bench.soak --minutes 120

lint: $(INSTALLED_DEV)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

# the figures of docs/results.md; needs the research images (EDGE_DATA) and mosquitto
results: $(INSTALLED_DEV)
	$(VENV)/bin/python -m bench

# the figures of docs/performance.md: about 50 minutes of a quiet machine; PEER=FOLDER names an environment that
# has anomalib 2.7, which is otherwise installed (6.5 GB). Needs the research images (EDGE_DATA) and mosquitto
bench: $(INSTALLED_DEV)
	mkdir -p results
	$(VENV)/bin/python -m bench large decoders throughput
	$(VENV)/bin/python -m bench.peer --rounds 5 --out results/peer.md $(if $(PEER),--peer-venv $(PEER))
	$(VENV)/bin/python -m bench.origin_way --frames 36 --rounds 3 --out results/origin_way.md
	$(VENV)/bin/python -m bench.roofline --out results/roofline.md

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

# systemd/requirements.txt: what the daemon needs on Linux, at the versions of constraints.txt, each file by its hash
lock: $(TOOLS)
	grep -E '^(# |--only)' systemd/requirements.txt > $(TOOLS)/head
	$(TOOLS)/bin/uv pip compile -q pyproject.toml -c constraints.txt --generate-hashes --python-version 3.11 \
	  --python-platform linux --no-header --no-annotate --no-emit-index-url \
	  -o $(TOOLS)/body
	cat $(TOOLS)/head $(TOOLS)/body > systemd/requirements.txt

# known vulnerabilities of what the daemon needs, then of everything; fails where one cannot be looked up
audit: $(TOOLS)
	$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip -r systemd/requirements.txt
	$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

$(TOOLS): | $(VENV)/bin/python
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install -q 'uv==0.13.9' 'pip-audit==2.10.1'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	# an independent Sparkplug host for tests; it wants paho-mqtt 1, edge 2: a folder of its own
	$(VENV)/bin/python -m pip install -q --upgrade --no-deps --target $(VENV)/sparkplug pysparkplug==0.6.1 paho-mqtt==1.6.1
	# TensorRT's types, without TensorRT, which they want
	$(VENV)/bin/python -m pip install -q --no-deps tensorrt-stubs==10.13.0.35.1
	@touch $@

# dist/edge_VERSION_ARCH.deb, all in one: for the Debian release, and the Python, of the machine that builds it
deb:
	$(PYTHON) packaging/deb.py --out dist

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
