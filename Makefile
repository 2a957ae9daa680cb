# Two commands on a fresh machine: `make demo` and `make test`. They need python3 (3.11+), make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= auto

.PHONY: demo test check unit bench docs clean lock setup
.DEFAULT_GOAL := test

setup: $(READY)

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements/dev.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: $(READY)         ## the whole loop on the flights of 2013
	$(BIN)/flyball demo

test: $(READY)         ## every test, on every core
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

unit: $(READY)         ## the quick ones
	$(BIN)/python -m pytest tests/unit tests/property tests/conformance

check: $(READY)        ## format, lint, types, layers
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)        ## ratios beside the real peers
	$(BIN)/python -m benchmarks

docs: $(READY)         ## the generated reference
	$(BIN)/python tools/reference.py

lock: $(READY)         ## pin what pyproject.toml and requirements/dev.in ask for
	$(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url --no-header --no-annotate --extra demo pyproject.toml requirements/dev.in -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements/core.txt

clean:
	rm -rf $(VENV) .flyball flyball-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
