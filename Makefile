# make demo     set up, build the sample corpus from files on this machine, train a tiny mixture of experts on it
# make test     set up, pass the tests
# make <stage>  run a recipe up to and including a stage:  make dedup RECIPE=recipes.sample SET="dedup_near.threshold=0.8"
# make train    train on a finished corpus, with the same SET, and fields of the run:  make train SET="dedup_near.threshold=0.8 lr=1e-3"
# make demo     takes fields of corpus steps in SET, for all it runs; fields of the run (lr, model.…) mean nothing to a corpus

PYTHON  ?= python3
RECIPE  ?= recipes.sample
ROOT    ?= data
WORKERS ?=
SET     ?=
VENV    := .venv
BIN     := $(VENV)/bin
RUN     := $(BIN)/python -m corpus
OPTIONS := --root $(ROOT) $(foreach s,$(SET),--set $(s))
ENGINE  := $(if $(WORKERS),--workers $(WORKERS))

.PHONY: help setup demo test check bench clean kernels plan corpus crawl extract filter dedup recall decontaminate mix tokenize train report submit submit-train

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo "stages: crawl extract filter dedup recall decontaminate mix tokenize · kernels train report plan submit submit-train bench check"

# --- Setting up ---------------------------------------------------------------------------------------------------------
# Each check names the Debian or Ubuntu package that brings what is missing.

$(BIN)/python:
	@command -v git >/dev/null || { echo "git is missing: apt-get install git" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old, 3.11 or newer is needed: apt-get install python3.11 python3.11-venv, then make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# pip first: the one that venv brings misreads the names of some extras.
$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,dev]'
	@touch $@ $(VENV)/.train

setup: $(VENV)/.dev

# --- The two commands ---------------------------------------------------------------------------------------------------

demo: $(VENV)/.train
	$(RUN) run recipes.sample $(OPTIONS) $(ENGINE)
	$(BIN)/python -m train recipes.moe_tiny $(OPTIONS)
	$(RUN) report recipes.sample $(OPTIONS)

test: $(VENV)/.dev
	$(BIN)/python -m kernels.build cpu
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m bench

# The CUDA kernels and their twin for the CPU, with the compilers that are there.
kernels: $(VENV)/.train
	$(BIN)/python -m kernels.build

# --- Stages: each runs what it needs first ------------------------------------------------------------------------------

plan: $(VENV)/.train
	$(RUN) plan $(RECIPE) $(OPTIONS)

corpus: $(VENV)/.train
	$(RUN) run $(RECIPE) $(OPTIONS) $(ENGINE)

# --until takes a step, a stage, or a stage's verb: `crawl` is every crawl of the recipe.

recall: UNTIL := select_recall
tokenize: UNTIL := encode_tokens
crawl extract filter dedup recall decontaminate mix tokenize: $(VENV)/.train
	$(RUN) run $(RECIPE) $(OPTIONS) $(ENGINE) --until $(or $(UNTIL),$@)

TRAINING ?= recipes.moe_tiny
train: $(VENV)/.train
	$(BIN)/python -m train $(TRAINING) $(OPTIONS)

report: $(VENV)/.train
	$(RUN) report $(RECIPE) $(OPTIONS)

# --- On a cluster -------------------------------------------------------------------------------------------------------
# RAY_ADDRESS: the head's dashboard. ROOT: a path or URL that every node can reach. JOB_PYTHON: the Python that has the
# packages, as the head node knows it; the code itself travels with the job. RAY_AUTH_MODE=token shows a cluster the user's token,
# for which it asks if there was one when it was started; `ray job submit` by itself does not.

RAY_ADDRESS ?= http://127.0.0.1:8265
RAY_AUTH_MODE ?= $(if $(RAY_AUTH_TOKEN)$(RAY_AUTH_TOKEN_PATH)$(wildcard $(HOME)/.ray/auth_token),token,disabled)
JOB_PYTHON  ?= $(abspath $(BIN)/python)
JOB_ROOT    := $(if $(findstring ://,$(ROOT)),$(ROOT),$(abspath $(ROOT)))
# What lies under a ROOT inside this folder does not travel; Ray leaves out what git ignores (data/) by itself.
JOB_SUBMIT   = RAY_ADDRESS=$(RAY_ADDRESS) RAY_AUTH_MODE=$(RAY_AUTH_MODE) $(BIN)/ray job submit --working-dir . \
	  --runtime-env-json '{"excludes": ["$(patsubst $(CURDIR)/%,/%,$(JOB_ROOT))"]}' --
submit: $(VENV)/.train
	$(JOB_SUBMIT) $(JOB_PYTHON) -m corpus run $(RECIPE) --root $(JOB_ROOT) $(foreach s,$(SET),--set $(s))

# recipes.sample holds this checkout, whose .git does not travel: SET="data=/path/to/encode_tokens-…" names the shards instead.
submit-train: $(VENV)/.train
	$(JOB_SUBMIT) $(JOB_PYTHON) -m train $(TRAINING) --ray --root $(JOB_ROOT) $(foreach s,$(SET),--set $(s))

clean:
	rm -rf $(VENV)/.train $(VENV)/.dev build *.egg-info
