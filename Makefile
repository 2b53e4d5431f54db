# `make` shows what there is. Everything runs in .venv, which `make setup` makes from the lock files.

PYTHON ?= $(firstword $(shell command -v python3.11 || command -v python3 || command -v python))
BIN := .venv/bin
FAST_TESTS := $(wildcard tests/unit tests/architecture)
PYTEST_OPTIONS ?=
FAULTS_REPORT := .pytest_cache/faults.xml

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-fast test-faults lint format lock wheel clean clean-all

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv: pinned packages by hash, Horovod from source, this package in place
	@test -n "$(PYTHON)" || { echo "setup: error: missing: Python 3.11; on Debian: apt-get install python3.11 python3.11-venv" >&2; exit 1; }
	@$(PYTHON) -m setup.install

demo: setup ## set up, then ingest, train, evaluate and register on real handwritten digits
	$(BIN)/dlspark full experiment=digits

test: setup ## set up, then run all tests but those that take minutes each
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadscope --no-loadscope-reorder $(PYTEST_OPTIONS)

test-slow: setup ## set up, then run the tests that take minutes each
	$(BIN)/python -m pytest -m slow $(PYTEST_OPTIONS)

test-fast: setup ## set up, then run the unit and architecture tests only
	$(BIN)/python -m pytest $(FAST_TESTS) $(PYTEST_OPTIONS)

test-faults: setup ## set up, then inject all faults, also those that take minutes, and print what came of them
	@$(BIN)/python -m pytest -m faults --junit-xml=$(FAULTS_REPORT) $(PYTEST_OPTIONS); code=$$?; \
	$(BIN)/python -m tests.faults.table $(FAULTS_REPORT) && exit $$code

lint: setup ## check style, format, types and the borders between modules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code into its format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: setup ## build dist/*.whl (needs no network)
	rm -rf build dist *.egg-info
	$(BIN)/python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist .
	rm -rf build *.egg-info
	@ls dist/*.whl

lock: ## write the lock files anew from pyproject.toml (UPGRADE=1: with newer versions)
	@$(PYTHON) -m setup.lock $(if $(UPGRADE),--upgrade)

clean: ## remove what builds, tests and tools left behind (not .venv, not runs)
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

clean-all: clean ## remove .venv too
	rm -rf .venv .setup.lock
