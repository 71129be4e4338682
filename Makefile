# `make quickstart` and `make test` set up their own environment in .venv on a machine that has Python >= 3.11.
# PYTHON chooses the interpreter; PIP_ARGS is passed to pip (for example a wheel index for another torch build).
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers

.PHONY: quickstart test lint sanitize soak memory-gain capacity parity-ablation long-context constant bench bench-gpu check-gpu

quickstart: $(STAMP)
	$(BIN)/titans quickstart $(ARGS)

test: lint
	$(BIN)/pytest -n 2

# The compiled kernels' tests with AddressSanitizer (gcc): C that reads or writes beyond a tensor ends them.
sanitize: export CFLAGS := -O1 -g -fsanitize=address
sanitize: export XDG_CACHE_HOME := $(CURDIR)/$(VENV)/sanitized
sanitize: export ASAN_OPTIONS := detect_leaks=0
sanitize: $(STAMP)
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" CC=gcc $(BIN)/python -m pytest \
		--capture=sys $(addprefix tests/memory/kernels/test_,native.py step.py elementwise.py short_convolution.py)

soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py

memory-gain: $(STAMP)
	$(BIN)/python benchmarks/memory_gain.py $(ARGS)

capacity: $(STAMP)
	$(BIN)/python benchmarks/capacity.py $(ARGS)

parity-ablation: $(STAMP)
	$(BIN)/python benchmarks/parity_ablation.py $(ARGS)

long-context: $(STAMP)
	$(BIN)/python benchmarks/long_context.py $(ARGS)

constant: $(STAMP)
	$(BIN)/python benchmarks/constant.py $(ARGS)

bench: $(PEERS)
	$(BIN)/python benchmarks/performance.py $(ARGS)

# On a machine with a CUDA GPU: the kernels' numbers, then their speed; flash-linear-attention is measured too where it is installed.
check-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

bench-gpu: $(PEERS)
	$(BIN)/python benchmarks/performance.py gpu $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# torch first and pinned, so that nothing else chooses its build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "titans needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

# The packages that we are measured against.
$(PEERS): $(STAMP)
	$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[bench]'
	touch $@
