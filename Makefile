# Everything below runs in a virtual environment of its own, .venv, made on first use. The stamp
# files in it remember what is installed, so a second run starts at once.
#
#   make demo     animate the bundled figure with the bundled small model; of the other base with
#                 make demo BASE=sd15, and another figure with make demo EXAMPLE=second
#   make page     a page to animate from, in the browser, with the bundled small model
#   make test     the default test suite
#   make lint     ruff
#   make full     heavy checks: full-width networks, PyTorch
#   make clean    remove .venv and caches
#
# PYTHON chooses the interpreter (3.11 or newer): make test PYTHON=python3.12
# Heavy checks need PyTorch; a CPU build is enough and much smaller than PyPI's:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make full

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
BASE := svd
EXAMPLE := demo
# What is given on the command line may be a variable of the shell that is not set.
override BASE := $(or $(BASE),svd)
override EXAMPLE := $(or $(EXAMPLE),demo)
WORKERS ?= 2
TORCH ?= torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

ifndef PYTHON
CANDIDATES := python3.12 python3.11 python3.13 python3 python3.14
PYTHON := $(shell for p in $(CANDIDATES); do \
	$$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$p && break; done)
endif

# Packages are installed without bytecode; what is imported gets it once, in .venv, whatever the
# environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo page test lint full parity clean
.DELETE_ON_ERROR:

# Of sample.py's own example nothing is named; another one is a folder of assets/.
FOLDER := assets/$(EXAMPLE)
GIVEN := $(if $(filter-out demo,$(EXAMPLE)),--reference $(FOLDER)/reference.png \
	--reference_pose $(FOLDER)/reference.poses.json --poses $(FOLDER)/driving.poses.json)

# Compiling is most of what the small models take: at this level XLA spends a fifth less on it, and
# what it makes is as fast.
QUICK := XLA_FLAGS="--xla_backend_optimization_level=1 $$XLA_FLAGS"

# Frames of 128 pixels are written as large as a person looks at them.
SHOWN := --config.sample.shown_height=512

demo: $(VENV)/core.stamp
	@mkdir -p output
	$(QUICK) $(BIN)/python sample.py --config configs/$(BASE).py:size=small --explain \
		$(SHOWN) $(GIVEN) --output output/$(EXAMPLE)_$(BASE).mp4

page: $(VENV)/page.stamp
	$(QUICK) $(BIN)/python -m dispose_jax.page --config configs/$(BASE).py:size=small

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

full parity: $(VENV)/parity.stamp
	$(BIN)/python -m pytest -m full

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info

$(VENV)/core.stamp: pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "make: no Python 3.11 or newer found among" \
		"$(CANDIDATES); name one: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { echo "make: PYTHON=$(PYTHON) is no Python 3.11 or" \
		"newer ($$($(PYTHON) --version 2>&1 | head -1)); name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing into $(VENV) with $$($(PYTHON) --version) (once, a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@$(BIN)/python -c "import sample"
	@touch $@

$(VENV)/page.stamp: $(VENV)/core.stamp
	@$(PIP) --editable ".[page]"
	@touch $@

$(VENV)/test.stamp: $(VENV)/core.stamp
	@$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/parity.stamp: $(VENV)/test.stamp
	@echo "installing $(TORCH) and diffusers ..."
	@$(PIP) --editable ".[test,parity,notebook,page,browser]" "$(TORCH)"
	@touch $@
