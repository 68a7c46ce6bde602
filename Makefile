# Two commands on a fresh machine: `make run` and `make test`. Each installs what it needs into .venv, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check clean

run: .venv/.installed
	$(BIN)/python run_search.py

test: .venv/.installed-test
	$(BIN)/python -m pytest

check: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch .venv/.installed $@

clean:
	rm -rf .venv
