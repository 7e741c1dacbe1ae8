# make train ARGS="--epochs 5"   train; make sprint   92.53 % in minutes; make test   run the tests; make bench NAME=box   measure this machine
# make test WORKERS=4   in as many processes; make test ARGS=tests/test_gates.py   some of them, in one
# make gpu ARGS="--data-dir PATH"   ten minutes on a GPU measure everything; ARGS=--rehearse tries it on a CPU
# make coverage   the tests again, and which lines of fasttrain/ they never reach; fails below 90 %
# make docs   the site of documents, strictly, into site/
# make trackers   --track with the real wandb and mlflow, in an environment of their own
# make soak   the long half of the tests: kills, crash points, damaged files, argument lists
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
TRACKERS := $(VENV)/trackers
NAME ?= here
WORKERS ?= 2
READY := $(VENV)/.ready

.PHONY: train sprint test coverage trackers soak bench gpu check docs clean

train: $(READY)
	$(RUN) -m fasttrain --epochs 50 $(ARGS)

sprint: $(READY)
	$(RUN) -m fasttrain --recipe sprint $(ARGS)

# File by file, so that what a file's tests share is made once.
test: $(READY)
	$(RUN) -m pytest $(or $(ARGS),-n $(WORKERS) --dist loadfile)

# Measured code is slow, so tests of speed may fail here, and a killed process leaves torn data.
coverage: $(READY)
	-$(RUN) -m coverage run -m pytest $(ARGS)
	-$(RUN) -m coverage combine --quiet 2>/dev/null
	$(RUN) -m coverage report --sort=cover

trackers: $(TRACKERS)/.ready
	$(TRACKERS)/bin/python -m pytest -m trackers tests/track

soak: $(READY)
	$(RUN) -m pytest -m soak -p tests.soak_record

bench: $(READY)
	mkdir -p .benchmarks
	$(RUN) -m pytest benchmarks --benchmark-only --benchmark-disable-gc \
	  --benchmark-json=.benchmarks/raw.json $(ARGS)
	$(RUN) -m benchmarks.table .benchmarks/raw.json $(NAME)

gpu: $(READY)
	$(RUN) -m benchmarks.gpu --name $(NAME) $(ARGS)

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

$(READY): requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# It sees the packages of $(VENV) after its own, so that nothing there is replaced.
SITE := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
$(TRACKERS)/.ready: $(READY) requirements-trackers.txt
	$(RUN) -m venv $(TRACKERS)
	$(RUN) $(SITE) > "$$($(TRACKERS)/bin/python $(SITE))/outer.pth"
	$(TRACKERS)/bin/python -m pip install --quiet -r requirements-trackers.txt
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
