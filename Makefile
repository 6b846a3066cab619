# Every target works on a fresh checkout: python3 with venv is all it needs. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev

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

test: $(DEV) ## all tests
	$(BIN)/python -m pytest -q

chaos: $(DEV) ## break everything at random for some minutes; SEEDS="1 2" breaks the same again
	$(BIN)/python -m tests.chaos $(SEEDS)

bench: $(DEV) ## measure this machine
	$(BIN)/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# Includes the runtime, so that `make run` after `make test` installs nothing.
$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(RUNTIME) $@
