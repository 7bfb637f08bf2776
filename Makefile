# What a person types. Everything else is `lethe --help`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo up test test-slow lint bench install clean

demo: install  ## the whole of what Lethe is for, on real processes, in minutes
	$(BIN)/lethe demo --out demo-out

up: install  ## the service on this computer, in the foreground
	$(BIN)/lethe up

test: install  ## the fast suite
	$(BIN)/python -m pytest

test-slow: install  ## what starts, kills and trains whole processes
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## engines beside retrained models: the quick table, in minutes
	$(BIN)/lethe bench run --quick --out build/bench.json --picture build/bench.svg

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint requirements.lock torch==2.13.0
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[workers,embedded,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo-out
