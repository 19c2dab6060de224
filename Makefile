# The commands of everyday work. Nothing but Python >= 3.11, make and the package index is needed:
#
#   make demo        sets up .venv, trains a small UniToken on real digits, writes runs/demo/report.html
#   make test        sets up .venv, runs the tests
#   make test-all    also the slow proofs, and those against torch
#   make smoke       a little of every floor, for other Pythons
#   make demo-short  the demo with a few steps a stage: everything runs, nothing is learnt
#   make lint        format, lint and types
#   make lock        writes requirements/lock-py3XX.txt anew for the Python in use
#   make clean       removes .venv, runs/ and caches

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if $(shell $p -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$p)) python3)
VENV ?= .venv
WORKERS ?= 2

unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.3

bin := $(VENV)/bin
started := $(shell date +%s)
stages := tokenizer tower stage1 stage2

.PHONY: setup demo $(stages:%=demo/%) demo-short test test-all smoke proofs lint lock clean
setup: $(VENV)/.base

# A set-up is as good as its inputs: it is made again when these change.
$(VENV)/.base $(VENV)/.test $(VENV)/.parity: pyproject.toml setup.py $(wildcard requirements/*)

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed and $(PYTHON) is not; say which: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# --no-compile: byte-compiling what is never imported would double the time.
install = $(bin)/python -m pip install --quiet --no-compile --disable-pip-version-check $(constraints)
constraints = $(addprefix -c ,$(wildcard $(lockfile)))
lockfile = requirements/lock-py$(shell $(bin)/python -c 'import sys; print("3%d" % sys.version_info[1])').txt

$(VENV)/.base: | $(bin)/python
	$(install) -e .
	@touch $@

$(VENV)/.test: | $(bin)/python
	$(install) -e '.[test]'
	@touch $@ $(VENV)/.base

$(VENV)/.parity: | $(bin)/python
	$(install) -e '.[test,parity]'
	@touch $@ $(VENV)/.test $(VENV)/.base

# The ordinary path, a few times over: train each stage, then measure. Killed and called again, it goes on.
train = $(bin)/unitok train --config $(up)configs/demo/$(1).py --workdir runs/demo/$(1) $(if $(SEED),--config.seed=$(SEED))
evaluate = $(bin)/unitok evaluate --workdir runs/demo/stage2 --out runs/demo --started $(started)
define newline


endef

# Tokenizer and tower need nothing of each other, and one alone does not fill two cores.
demo: setup
	@$(MAKE) --no-print-directory -j2 demo/tokenizer demo/tower
	@$(MAKE) --no-print-directory demo/stage1
	@$(MAKE) --no-print-directory demo/stage2
	$(evaluate)

$(stages:%=demo/%): demo/%: setup
	$(call train,$*)

# In a folder of its own, so that the recipes' paths to one another hold.
demo-short: up := $(CURDIR)/
demo-short: setup
	@rm -rf runs/short && mkdir -p runs/short
	$(foreach stage,$(stages),cd runs/short && $(up)$(call train,$(stage)) --config.steps=20 --config.log_every=10$(newline))
	cd runs/short && $(up)$(evaluate)

pytest = $(bin)/python -m pytest -n $(WORKERS) --durations=10
marked := slow or parity or several_processes or aot

test: $(VENV)/.test
	$(pytest) -m 'not ($(marked))'

test-all: test proofs

proofs: $(VENV)/.parity
	$(pytest) -m '$(marked)'

# What a Python other than the main one must pass in CI: a little of every floor.
smoke: $(VENV)/.test
	$(pytest) tests/test_config.py tests/test_cli.py tests/test_house.py tests/goldens tests/training -m 'not ($(marked))'

lint: $(VENV)/.test
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/ty check

lock: $(VENV)/.test
	$(bin)/python -m pip freeze --exclude-editable > $(lockfile)

clean:
	rm -rf $(VENV) runs .cache .pytest_cache .ruff_cache build *.egg-info
