# Two commands set everything up: `make demo` and `make test`. Both make the environment first.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
READY  := $(VENV)/.ready

.PHONY: demo test lint bench clean help

help:
	@echo "make demo    the whole pipeline on the synthetic hand, live in the terminal"
	@echo "make test    the whole suite"
	@echo "make lint    ruff and mypy, as on Linux and as on Windows"
	@echo "make bench   every benchmark of tools/bench (minutes; leave the machine alone meanwhile)"

# DEMO_ARGS="--gestures LEFT --gestures OK" makes it shorter; `hgr demo --help` tells the rest.
demo: $(RUNS)
	$(BIN)/hgr demo $(DEMO_ARGS)

# The files are shared out among the cores; TEST_ARGS="-n 0 tests/test_decoder.py" runs one here.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(TEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32

bench: $(READY)
	for name in latency hands cost process_speed same_events step devineau realsense drivers robustness; do \
		$(BIN)/python tools/bench/$$name.py || exit 1; \
	done

# Editable installs at the pinned versions, made again when these files change. The demo needs the
# daemon alone; the tests need every device's library. The step of the networks is compiled once,
# here, so that nobody waits for it later.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c tools/constraints.txt

$(RUNS): pyproject.toml tools/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hgr-stream needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[inference]'
	$(BIN)/python -m hgr_stream.recognition.steppers
	@touch $@

$(READY): $(RUNS)
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache
