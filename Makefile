# Every target works on a fresh checkout: python3 with venv is all it needs. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help setup run check test chaos bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup: $(DEV) ## install everything into .venv

run: $(RUNTIME) ## start Trunkline on http://127.0.0.1:8000 with its own Redis
	@$(BIN)/trunkline up

check: $(DEV) ## format, lint, types, import directions, generated documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m trunkline.docs --check

# Bytecode is kept: the tests start a hundred Python processes, and compiling is a quarter of a start.
test: $(DEV) ## all tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -rfER -n auto --no-loadscope-reorder

chaos: $(DEV) ## break everything at random for some minutes; SEEDS="1 2" breaks the same again
	$(BIN)/python -m tests.chaos $(SEEDS)

bench: $(BENCH) ## measure this machine
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# Includes the runtime, so that `make run` after `make test` installs nothing.
$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(RUNTIME) $@

# The peers that are measured beside ours. The lock of npm's names the binaries of some platforms only, so `npm ci` would
# refuse it.
$(BENCH): pyproject.toml benchmarks/peers/package-lock.json | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	! command -v npm >/dev/null || npm install --prefix benchmarks/peers --no-save --no-audit --no-fund --silent --ignore-scripts
	@touch $(RUNTIME) $(DEV) $@
