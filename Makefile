# make train ARGS="--epochs 5"   train; make test   run the tests; make bench   measure this machine
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: train test bench check clean

train: $(READY)
	$(RUN) -m fasttrain --epochs 50 $(ARGS)

test: $(READY)
	$(RUN) -m pytest $(ARGS)

bench: $(READY)
	$(RUN) -m pytest benchmarks --benchmark-enable --benchmark-only -s $(ARGS)

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(READY): requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
