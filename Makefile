# Everything runs in .venv, which these targets make and which no other tool needs to know of. `make help` lists them.

VENV := .venv
# The first of these that runs and is new enough; `make test PYTHON=/path/to/python3.12` names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done)
# What is installed where .venv has no torch >= 2.6 yet. Nothing else depends on this version.
TORCH_SPEC ?= torch==2.13.0
# For every pip install, such as another index: PIP_ARGS="--extra-index-url URL".
PIP_ARGS ?=
# For `trl-nash demo`, such as DEMO_ARGS="--prompts FILE.jsonl".
DEMO_ARGS ?=
# For `make real`, such as REAL_ARGS="--judges cycle --seeds 3".
REAL_ARGS ?=
# The ruff of the dev extra, alone: linting needs no torch.
RUFF_SPEC := ruff>=0.17,<0.18

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
# A thread for each process: `make test` starts several, and tests start more.
PYTEST = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TRL_EXPERIMENTAL_SILENCE=1 TOKENIZERS_PARALLELISM=false \
	$(BIN)/python -m pytest

# TRL as it may be one day, without trl.experimental, and the tests of what stands on our own base class then.
OWN_BASE := PYTHONPATH="$(CURDIR)/tests/without_experimental$${PYTHONPATH:+:$$PYTHONPATH}"
OWN_BASE_TESTS := tests/trainers tests/cli/test_train.py tests/cli/test_launch.py tests/demo/test_language.py \
	tests/test_trl_contract.py
# But for what a round computes and how it goes on: nothing of the base but its constructor is used, and both give the
# same run bit for bit, also a resumed one (tests/trainers/test_base_class.py).
BESIDE_THE_BASE := $(addprefix --ignore=tests/trainers/,test_advice.py test_equality.py test_exactness.py \
	test_gradients.py test_judging.py test_longest_first.py test_minimisers.py test_nash_md_exactness.py test_overlap.py \
	test_quality.py test_schedules.py test_scoring.py checkpoints/test_cards.py checkpoints/test_damage.py \
	checkpoints/test_resuming.py checkpoints/test_stops.py)
# Several processes; a file's tests stay together, and files come in the order of tests/conftest.py.
SPREAD := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test slow coverage compat real gpu lint format types docs release clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed ## Install, then train a small model on the CPU (trl-nash demo)
	@$(BIN)/trl-nash demo $(DEMO_ARGS)
	@echo "(Here trl-nash is $(BIN)/trl-nash.)"

test: $(VENV)/.installed-test ## Install, then run the tests, and those of trainers without trl.experimental
	@$(PYTEST) $(SPREAD)
	@echo "Once more, without trl.experimental ..."
	@$(OWN_BASE) $(PYTEST) $(SPREAD) $(OWN_BASE_TESTS) $(BESIDE_THE_BASE)

slow: $(VENV)/.installed-test ## Run the slow tests
	@$(PYTEST) -m "slow and not gpu and not network"

coverage: $(VENV)/.installed-test ## Run the tests with coverage, of which there must be 90 %
	@$(PYTEST) $(SPREAD) --cov --cov-report=term

real: $(VENV)/.installed-real ## Play every method on a real instruct model on the CPU, and write docs/background/real_model.md
	@$(BIN)/python -m benchmarks.real --pip_args="$(PIP_ARGS)" --docs docs/background/real_model.md $(REAL_ARGS)

gpu: $(VENV)/.installed-test ## Run the tests that need a GPU
	@$(PYTEST) -m "gpu and not network"

compat: $(VENV)/.made ## Check what is relied on with the oldest and newest TRL and transformers, in fresh environments
	@$(BIN)/python tests/compat_matrix.py --torch_spec "$(TORCH_SPEC)" --pip_args="$(PIP_ARGS)"

lint: $(VENV)/.installed-ruff ## Check the style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-ruff ## Correct the style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.installed-test ## Check the types of the public interface
	@$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs ## Build the documentation into build/site, strictly; needs no torch
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Built build/site. To read it with its search: $(BIN)/python -m http.server --directory build/site"

release: $(VENV)/.installed-test ## Build wheel and sdist, check them, install and run them elsewhere
	@$(BIN)/python tests/check_release.py --pip_args="$(PIP_ARGS)"

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) build dist .coverage .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The files below record what .venv holds, so that a second run installs nothing unless pyproject.toml has changed.

$(VENV)/.made:
	@if [ ! -x $(BIN)/python ]; then \
		if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
			echo "trl-nash needs Python 3.11 or newer, found $(or $(PYTHON),none): name one with PYTHON=/path/to/python3.12." >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $(PYTHON) ..."; \
		"$(PYTHON)" -m venv $(VENV); \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@touch $@

# A step of its own, before the packages that would pull in the newest torch with whatever it brings.
$(VENV)/.torch: $(VENV)/.made
	@if ! $(BIN)/python -c 'import sys, torch; v = torch.__version__.split("."); sys.exit((int(v[0]), int(v[1])) < (2, 6))' \
		2>/dev/null; then \
		echo "Installing $(TORCH_SPEC) (some minutes) ..."; \
		$(PIP_INSTALL) "$(TORCH_SPEC)"; \
	fi
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "Installing trl-nash (some minutes the first time) ..."
	@$(PIP_INSTALL) --editable ".[peft,plots]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.torch
	@echo "Installing trl-nash and what its tests need (some minutes the first time) ..."
	@$(PIP_INSTALL) --editable ".[test]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-real: pyproject.toml $(VENV)/.torch
	@$(PIP_INSTALL) --editable ".[real]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.made
	@$(BIN)/python -c 'import tomllib; \
		extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
		print(*extras["docs"], sep="\n")' | $(PIP_INSTALL) --requirement /dev/stdin
	@touch $@

$(VENV)/.installed-ruff: $(VENV)/.made
	@$(PIP_INSTALL) "$(RUFF_SPEC)"
	@touch $@
