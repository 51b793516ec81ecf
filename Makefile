# `make demo` and `make test` are all that a fresh machine needs: both make the environment first.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format science bench evidence tables docs clean distclean

help:              ## these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 18

install: $(STAMP)  ## the environment in .venv, the package in it, editable

$(STAMP): pyproject.toml constraints.txt
	@test -x $(PY) || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Allograft needs Python 3.11 to 3.13; found: $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.11" >&2; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)     ## a whole study on phantoms: table and report in runs/demo/out
	$(PY) -m allograft phantom brain runs/demo/cohort --subjects 20 --seed 0
	$(PY) -m allograft study examples/demo.yaml --out runs/demo/out

test: $(STAMP)     ## every test and doctest, but the slow and the science ones
	$(PY) -m pytest -n 2 --dist loadgroup

lint: $(STAMP)     ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy src

format: $(STAMP)   ## mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

science: $(STAMP)  ## each method against plain supervised, on the shift that its paper treats (slow)
	$(PY) -m pytest -m science tests/science

bench: $(STAMP)    ## speed and memory; CHECK=--check fails where a promise is missed, BENCH=judging runs one
	$(PY) benchmarks $(CHECK) $(BENCH)

evidence: $(STAMP) ## run one evidence page, PAGE=name, and keep what it leaves (long)
	@test -n "$(PAGE)" || { echo "name a page: make evidence PAGE=brain_pairs" >&2; exit 2; }
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) docs/tables.py run $(PAGE)

tables: $(STAMP)   ## the tables of the evidence pages, from their kept files
	$(PY) docs/tables.py

docs: $(STAMP)     ## the documentation, in docs/_build/html
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[docs]'
	$(PY) -m sphinx -W -q -b html docs docs/_build/html

clean:             ## caches and builds; runs/ and .venv stay
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find src tests examples benchmarks docs -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean   ## clean, and .venv too
	rm -rf $(VENV)
