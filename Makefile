# The commands of everyday work. Nothing but Python >= 3.11, make and the package index is needed:
#
#   make demo        sets up .venv, trains a small UniToken on real digits, writes runs/demo/report.html
#   make test        sets up .venv, runs the tests
#   make test-all    also the slow proofs, and those against torch
#   make test-exhaustive   every variant of every recipe, every mesh: an hour and more
#   make smoke       a little of every floor, for other Pythons
#   make demo-short  the demo with a few steps a stage: everything runs, nothing is learnt
#   make demo-tar    trains a small Tar on the digits, writes runs/demo-tar/report.html
#   make demo-tar-short  the same with a few steps a stage
#   make demo-dualtoken  trains a small DualToken on the digits, writes runs/demo-dualtoken/report.html
#   make demo-dualtoken-short  the same with a few steps a stage
#   make demo-uniwetok  trains a small UniWeTok on the digits, writes runs/demo-uniwetok/report.html
#   make demo-uniwetok-short  the same with a few steps a stage
#   make claims      the papers' findings at small scale, three seeds each, into docs/claims.md (an hour and more)
#   make plans       what every recipe takes of a pod, into docs/plans.md (hours)
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

.PHONY: setup demo $(stages:%=demo/%) demo-short demo-tar demo-tar-short demo-dualtoken demo-dualtoken-short demo-uniwetok demo-uniwetok-short test test-all test-exhaustive smoke proofs claims plans lint lock clean
setup: $(VENV)/.base

# A set-up is as good as its inputs: it is made again when these change.
$(VENV)/.base $(VENV)/.test $(VENV)/.tpu $(VENV)/.parity: pyproject.toml setup.py $(wildcard requirements/*)

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

$(VENV)/.tpu: | $(bin)/python
	$(install) -e '.[tpu]'
	@touch $@ $(VENV)/.base

$(VENV)/.parity: | $(bin)/python
	$(install) -e '.[test,parity,notebooks,tpu]'
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

# Tar: teacher, text-aligned tokenizer, VQ-VAE, autoregressive de-tokenizer, language model.
tar_stages := tower tokenizer vq ar lm
train_tar = $(bin)/unitok train --config $(up)configs/demo/tar_$(1).py --workdir runs/demo-tar/$(1) $(if $(SEED),--config.seed=$(SEED))
evaluate_tar = $(bin)/unitok evaluate --workdir runs/demo-tar/lm --out runs/demo-tar --started $(started)

demo-tar: setup
	$(foreach stage,$(tar_stages),$(call train_tar,$(stage))$(newline))
	$(evaluate_tar)

demo-tar-short: up := $(CURDIR)/
demo-tar-short: setup
	@rm -rf runs/short-tar && mkdir -p runs/short-tar
	$(foreach stage,$(tar_stages),cd runs/short-tar && $(up)$(call train_tar,$(stage)) --config.steps=20 --config.log_every=10$(newline))
	cd runs/short-tar && $(up)$(evaluate_tar)

# DualToken: tower, tokenizer with two codebooks, language model with two depth transformers.
dual_stages := tower tokenizer lm
train_dual = $(bin)/unitok train --config $(up)configs/demo/dualtoken_$(1).py --workdir runs/demo-dualtoken/$(1) $(if $(SEED),--config.seed=$(SEED))
evaluate_dual = $(bin)/unitok evaluate --workdir runs/demo-dualtoken/lm --out runs/demo-dualtoken --started $(started)

demo-dualtoken: setup
	$(foreach stage,$(dual_stages),$(call train_dual,$(stage))$(newline))
	$(evaluate_dual)

demo-dualtoken-short: up := $(CURDIR)/
demo-dualtoken-short: setup
	@rm -rf runs/short-dualtoken && mkdir -p runs/short-dualtoken
	$(foreach stage,$(dual_stages),cd runs/short-dualtoken && $(up)$(call train_dual,$(stage)) --config.steps=20 --config.log_every=10$(newline))
	cd runs/short-dualtoken && $(up)$(evaluate_dual)

# UniWeTok: teacher, binary tokenizer, class-conditional generator, language model; pictures of each class besides.
uwt_config = $(up)configs/demo/$(if $(filter tower,$(1)),,uniwetok_)$(1).py
train_uwt = $(bin)/unitok train --config $(uwt_config) --workdir runs/demo-uniwetok/$(1) $(if $(SEED),--config.seed=$(SEED))
sample_uwt = $(bin)/python -m unitok_jax.cli.sample_classes --workdir runs/demo-uniwetok/c2i --out runs/demo-uniwetok/classes \
  --per-class 20 --steps 20 --guidance 2 --batch 20
evaluate_uwt = $(bin)/unitok evaluate --workdir runs/demo-uniwetok/lm --out runs/demo-uniwetok --started $(started)
uwt_stages := tower tokenizer c2i lm

demo-uniwetok: setup
	$(foreach stage,$(uwt_stages),$(call train_uwt,$(stage))$(newline))
	$(sample_uwt)
	$(evaluate_uwt)

demo-uniwetok-short: up := $(CURDIR)/
demo-uniwetok-short: setup
	@rm -rf runs/short-uniwetok && mkdir -p runs/short-uniwetok
	$(foreach stage,$(uwt_stages),cd runs/short-uniwetok && $(up)$(call train_uwt,$(stage)) --config.steps=20 --config.log_every=10$(newline))
	cd runs/short-uniwetok && $(up)$(sample_uwt)
	cd runs/short-uniwetok && $(up)$(evaluate_uwt)

# What the papers' ablations find, looked for on the digits. Killed and called again, it goes on.
claims: setup
	$(bin)/python -m benchmarks.claims docs/claims.md $(CLAIMS)

pytest = $(bin)/python -m pytest -n $(WORKERS) --dist worksteal --durations=10
marked := slow or parity or several_processes or aot

test: $(VENV)/.test
	$(pytest) -m 'not ($(marked) or exhaustive)'

test-all: test proofs

# Every recipe's train step, compiled for TPU slices that are not there. Killed and called again, it goes on.
recipes = $(filter-out configs/demo/%,$(shell grep -l 'def get_config' configs/*/*.py))
# Their other sizes. tests/parallel/test_recipe_shardings.py reads this line.
variants = tar/pretrain.py:7b tar/sft.py:7b uniwetok/lm.py:bitdance,P64,large uniwetok/c2i.py:H uniwetok/c2i.py:bitdance,L,16x dualtoken/tokenizer.py:256

plans: $(VENV)/.tpu
	$(bin)/python -m unitok_jax.planning.table docs/plans.md $(recipes) $(variants:%=configs/%)

proofs: $(VENV)/.parity
	$(pytest) -m '($(marked)) and not exhaustive'

# Every variant of every recipe, every mesh: for a night, not for each change.
test-exhaustive: $(VENV)/.test
	$(pytest) -m exhaustive

# What a Python other than the main one must pass in CI: a little of every floor.
smoke: $(VENV)/.test
	$(pytest) tests/test_config.py tests/test_cli.py tests/goldens tests/systems/test_unitoken_lm_stage.py tests/training/test_loop.py -m 'not ($(marked) or exhaustive)'

lint: $(VENV)/.test
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/ty check

lock: $(VENV)/.test
	$(bin)/python -m pip freeze --exclude-editable > $(lockfile)

clean:
	rm -rf $(VENV) runs .cache .pytest_cache .ruff_cache build *.egg-info
