"""What edge does, measured: commands that anyone can run again, and the page their figures go to.

`python -m bench` runs all, `python -m bench NAME…` some; each writes its own section of docs/results.md.
"""
