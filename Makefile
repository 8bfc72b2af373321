# Every target sets up its own virtual environment; run any of them again and again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test docs benchmark wheel clean

demo: $(VENV)/examples  ## GRPO on a bandit whose arms drift
	$(BIN)/python examples/dynamic_bandit.py

test: $(VENV)/dev  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

docs: $(VENV)/dev  ## the site, into docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html docs docs/_build/html

benchmark: $(VENV)/dev  ## what a step costs beside a hand-written loop
	$(BIN)/python tests/benchmarks/step_overhead.py

wheel: $(VENV)/dev  ## the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## everything that was built or installed here
	rm -rf $(VENV) dist docs/_build outputs .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/python: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/examples $(VENV)/dev: $(VENV)/%: $(VENV)/python pyproject.toml
	$(INSTALL) --editable ".[$*]"
	touch $@
