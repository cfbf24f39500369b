# make demo | make test: each makes its own environment and needs nothing but Python 3.11 to 3.13 and make.
PYTHON ?= python3
SEEDS ?= 1
BIN := .venv/bin

.PHONY: install demo test check

install: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit(f"densessl needs Python 3.11 to 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python tools/demo.py --seeds $(SEEDS)

test: install
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
