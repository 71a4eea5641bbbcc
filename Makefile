# The dependency graph of the project. `make` lists the targets; stamp files say what is up to date.
#
#   PYTHON       the interpreter that .venv is made from (default: the first one found >= 3.11)
#   TORCH_INDEX  a package index to take torch from, e.g. https://download.pytorch.org/whl/cpu:
#                on Linux the default build of torch brings about 3 GB of CUDA libraries
#   RETRAIN      set it (RETRAIN=1) and `make reproduce` trains every policy anew; otherwise a policy
#                is read from build/ if the same data, code and configuration made it before
#   ARGS         further arguments of `make collect`, `serve-local`, `bench` and `lock`

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help setup reproduce verify db collect serve-local lab test check bench lock clean

IS_SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$p -c '$(IS_SUPPORTED)' >/dev/null 2>&1; then echo $$p; exit; fi; done; echo python3)
TORCH_INDEX ?=
RETRAIN ?=
ARGS ?=

PY := .venv/bin/python
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check
ROUTERLIB := $(PY) -m routerlib.cli
INSTALLED := .venv/installed.stamp

# These have no wheels, and pycosat needs a C compiler: only generated problems need them.
SOURCE_ONLY := ^\(reasoning-gym\|pycosat\|cellpylib\|zss\)==

LIBRARY := $(shell find routerlib -name '*.py' -o -name '*.mplstyle')
TRACES := $(wildcard traces/*/*.parquet traces/*/*/*.parquet traces/manifest.json)
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
EXECUTED := $(NOTEBOOKS:notebooks/%=build/notebooks/%)

help: ## list the targets (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## make .venv from requirements.lock (TORCH_INDEX=... for a CPU build of torch)

.venv/bin/python:
	@python='$(PYTHON)'; \
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { \
		echo "setup: PYTHON=$$python cannot be run; install Python >= 3.11, or name one with" \
			"'make setup PYTHON=/path/to/python3.11'" >&2; exit 1; }; \
	$$python -c '$(IS_SUPPORTED)' || { \
		echo "setup: routerlib needs Python >= 3.11 and PYTHON=$$python is $$version; install a" \
			"newer one, or name one with 'make setup PYTHON=/path/to/python3.11'" >&2; exit 1; }; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "setup: PYTHON=$$python lacks the venv module; install it (on Debian and Ubuntu:" \
			"apt install python3-venv)" >&2; exit 1; }; \
	$$python -m venv .venv

$(INSTALLED): requirements.lock pyproject.toml | .venv/bin/python
	@echo "setup: installing $$(grep -c == requirements.lock) locked packages into .venv (minutes)"
ifneq ($(TORCH_INDEX),)
	$(PIP_INSTALL) --no-deps --index-url $(TORCH_INDEX) \
		$$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.lock)
endif
	@grep -v '$(SOURCE_ONLY)' requirements.lock > .venv/wheels.lock
	@$(PIP_INSTALL) --only-binary :all: -r .venv/wheels.lock || { \
		echo "setup: the locked packages could not be installed (pip says why above); is a" \
			"package registry within reach?" >&2; exit 1; }
	@$(PIP_INSTALL) -r requirements.lock || \
		echo "setup: reasoning-gym is left out: it needs pycosat, which needs a C compiler and" \
			"Python.h; only generating problems needs it" >&2
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# What is not there is trained: the policies' cache is named by a hash of all that made them.
ifneq ($(RETRAIN),)
$(shell rm -rf build/notebooks build/results)
endif

reproduce: $(EXECUTED) ## cached traces -> executed notebooks in build/ -> figures/ (offline)

# Each notebook may read what the ones before it wrote, so they form a chain.
previous :=
define notebook_rule
build/notebooks/$(1): notebooks/$(1) $(previous) $$(LIBRARY) $$(TRACES) $$(INSTALLED)
	$$(ROUTERLIB) notebooks run $$< --output build/notebooks
endef
$(foreach notebook,$(NOTEBOOKS:notebooks/%=%),\
	$(eval $(call notebook_rule,$(notebook)))\
	$(eval previous := build/notebooks/$(notebook)))

verify: $(INSTALLED) ## check the store, regenerate all figures and compare them with the tracked ones
	$(ROUTERLIB) verify
	$(ROUTERLIB) notebooks verify --scratch build/verify

db: $(INSTALLED) ## build traces/traces.duckdb, a database of views over the store
	$(ROUTERLIB) db

collect: $(INSTALLED) ## record new traces (ARGS="--benchmark gsm8k --limit 50 --dry-run")
	$(ROUTERLIB) collect $(ARGS)

serve-local: $(INSTALLED) ## serve a local model until Ctrl-C (ARGS="--engine llamacpp")
	$(ROUTERLIB) serve-local $(ARGS)

lab: $(INSTALLED) ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab --ServerApp.default_url=/lab/tree/notebooks

test: check ## lint, types, unit tests, all notebooks on a small fixture; says what was skipped
	$(PY) -m pytest --cov=routerlib --cov-report=term:skip-covered

check: $(INSTALLED) ## ruff and mypy --strict
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(INSTALLED) ## measure collector and store: 20 minutes, 10 GB (ARGS="prefix-cache")
	$(PY) -m bench $(ARGS)

lock: $(INSTALLED) ## resolve requirements.lock again (ARGS=--upgrade for newer versions)
	.venv/bin/uv pip compile --quiet $(ARGS) pyproject.toml --output-file requirements.lock

clean: ## remove everything that can be made again, except .venv
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage traces/traces.duckdb
