# Needs make, and Python 3.11 or newer with pip. Everything else is installed into .venv by `make install`.
# Another interpreter: `make install PYTHON=python3.12`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := $(wildcard src tests tools bench examples)
# Test processes; `make test WORKERS=0` runs all in one.
WORKERS ?= 2
# More arguments for pytest, the demo or the benchmarks.
ARGS ?=

.PHONY: help install check test soak demo docs bench fmt lock clean

help:
	@echo 'make install   .venv with the perdure command and all that tests need'
	@echo 'make demo      kill a session at work and see it resume'
	@echo 'make test      all checks, and all tests but the longest'
	@echo 'make soak      the longest tests: exhaustive runs, storms, whole installs; PERDURE_SOAK=5: more'
	@echo 'make check     format, lint, types, imports, sizes, unused code'
	@echo 'make fmt       format the code and fix what the linter can'
	@echo 'make docs      write the reference pages that are generated from the code'
	@echo 'make bench     the benchmarks'
	@echo 'make lock      new lock files from pyproject.toml (ARGS=--upgrade for the newest versions)'
	@echo 'make clean     remove everything that these targets created'

install: $(STAMP)
	@:

$(STAMP): pyproject.toml requirements.lock requirements-model.lock tools/install.sh
	@PYTHON='$(PYTHON)' sh tools/install.sh $(VENV)
	@touch $@

check: install
	@$(BIN)/ruff format --quiet --check --output-format concise $(CODE) || { echo 'Run `make fmt`.'; exit 1; }
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python tools/quietly.py $(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/sizes.py $(CODE)
	@$(BIN)/python tools/unused.py

test: check
	@$(BIN)/pytest -m 'not soak' --cov -n $(WORKERS) --dist worksteal $(ARGS)

soak: install
	@$(BIN)/pytest -m soak -n $(WORKERS) --dist worksteal $(ARGS)

demo: install
	@$(BIN)/perdure demo $(ARGS)

bench: install
	@$(BIN)/python -m bench $(ARGS)

docs: install
	@$(BIN)/python -m tools.reference

fmt: install
	@$(BIN)/ruff check --quiet --fix-only $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

lock:
	@PYTHON='$(PYTHON)' sh tools/lock.sh $(ARGS)

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
