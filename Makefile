# Needs Python 3.11 or newer. Everything is installed into .venv, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is kept even where the system says otherwise: the suite starts Python many times.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help demo test test-all test-fast test-cuda check format docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.demo  ## train a teacher and students on real digits
	$(BIN)/tekapctl demo

test: $(VENV)/.dev  ## run the test suite
	$(PYTEST) -m "not exhaustive"

test-all: $(VENV)/.dev  ## run the test suite, and every combination of what it tries in part
	$(PYTEST)

test-fast: $(VENV)/.dev  ## run the tests that are not marked slow
	$(PYTEST) -m "not slow and not exhaustive"

test-cuda: $(VENV)/.dev  ## run the tests of the CUDA paths on an emulated GPU, and print kernels per step
	$(PYTEST) -n 0 -s tests/cuda

check: $(VENV)/.dev  ## lint, check the format, check the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## sort imports, fix what can be fixed, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## build the documentation site into build/site
	$(BIN)/python docs/make_reference.py
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove the virtual environment and the build folder
	rm -rf $(VENV) build

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	touch $@
