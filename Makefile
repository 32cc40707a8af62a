# Everything a newcomer needs: `make demo` and `make test` are each complete on a fresh machine with Python 3.11+ and make.

PYTHON ?= python3
# One more than there are cores: a quarter of the time tests wait for processes that they start, and for the disk.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)
# Those of the benchmarks take minutes, and say little of the product.
TESTS ?= not long
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := cm3 recipes tests benchmarks
# PyPI's torch for Linux carries CUDA, gigabytes that a machine without an NVIDIA GPU cannot use.
CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help venv demo test check format lint types clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

venv: $(READY)  ## create .venv with pinned dependencies

# A CPU build that pip finds by itself (its configuration, PIP_FIND_LINKS) is preferred, because +cpu sorts above plain;
# only where there is none and no GPU either is PyTorch's CPU index asked.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "cm3 needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@index=; \
	if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
	  && ! $(BIN)/pip index versions torch 2>/dev/null | grep -q '+cpu'; then index="--extra-index-url $(CPU_INDEX)"; fi; \
	echo "installing into $(VENV): fetches about a gigabyte, which takes a minute or two" >&2; \
	$(BIN)/pip install --disable-pip-version-check $$index -c constraints.txt -e '.[dev,retrieval,clip,cluster,sweep,chart,track,lora,tasks,texts,serve,replicas]'
	@touch $@

demo: $(READY)  ## draw, describe and infill with the model in the package; writes demo/ (the first time fetches a gigabyte)
	@$(BIN)/cm3 demo

# The slow ones too. A worker takes files that follow each other, so that what the tests of a file share is made once.
test: $(READY)  ## run the tests of the product, and say which took longest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '$(TESTS)' -n $(JOBS) --maxprocesses 8 --dist worksteal --durations 20

check: $(READY)  ## format check, lint, types, all tests with those of the benchmarks: what has to pass before a commit
	$(BIN)/ruff format --check $(wildcard $(CODE))
	$(MAKE) lint types test TESTS=

format: $(READY)  ## format the code and sort its imports
	$(BIN)/ruff check --select I --fix --quiet $(wildcard $(CODE))
	$(BIN)/ruff format $(wildcard $(CODE))

lint: $(READY)  ## ruff
	$(BIN)/ruff check $(wildcard $(CODE))

types: $(READY)  ## mypy
	$(BIN)/mypy

clean:  ## remove .venv and everything that tools wrote
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find cm3 recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
