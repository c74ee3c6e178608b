# What a developer of cdcloader calls. Everything is made inside this folder; `make clean` removes it.

PYTHON ?=
# What `make bench` and `make soak` hand on, such as ARGS="--only scattered" or ARGS="--seed 7".
ARGS ?=
# How many tests run side by side: one more than there are processors, because many tests wait for a process.
WORKERS ?= $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

# Two installs into one environment at once would break it.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-services check fmt bench soak venv lock clean

# No cache outside this folder, no questions, and only errors are shown.
export PIP_NO_CACHE_DIR := 1
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
PIP := $(BIN)/python -m pip -qq

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(RUN_STAMP) ## Play DMS over a sample database, load it, and prove the tables (under a minute)
	@$(BIN)/cdcloader demo

test: $(DEV_STAMP) ## Run the tests
	@$(BIN)/python -m pytest -q -n $(WORKERS)

test-long: $(DEV_STAMP) ## Run the tests that take long: thousands of commits and random histories
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m slow

test-services: $(DEV_STAMP) ## Run the tests against Ceph (S3) and dynalite (DynamoDB), started on loopback, with faults
	@$(BIN)/python -m tests.services $(ARGS)

check: $(DEV_STAMP) ## Run ruff, mypy --strict, the import rules and the tests
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted; run: make fmt"; exit 1; }
	@$(BIN)/mypy --strict --no-error-summary cdcloader
	@$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(BIN)/python -m pytest -q -n $(WORKERS)

fmt: $(DEV_STAMP) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: $(DEV_STAMP) ## Measure speed, memory and bytes against the peers (about an hour; a minute with ARGS=--quick)
	@$(BIN)/python -m tests.bench $(ARGS)

soak: $(DEV_STAMP) ## Kill, stop and race real loaders for ten minutes; no row may differ
	@$(BIN)/python -m tests.soak $(ARGS)

venv: $(DEV_STAMP) ## Make or renew the environment in .venv

lock: $(DEV_STAMP) ## Bring the locks in line with pyproject.toml
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m piptools compile $(COMPILE) -o requirements.lock pyproject.toml
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m piptools compile $(COMPILE) --extra dev -c requirements.lock \
		-o requirements-dev.lock pyproject.toml

# The locks name versions only: which index serves them is the business of the machine.
COMPILE := --quiet --strip-extras --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

clean: ## Remove the environment, caches and whatever else was made here
	@rm -rf $(VENV) .bench .services build dist cdcloader-demo *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find cdcloader tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): requirements.lock pyproject.toml
	@$(MAKE_VENV)
	@echo "Installing cdcloader into $(VENV) (once, about a minute) ..."
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps -e .
	@touch $@

$(DEV_STAMP): $(RUN_STAMP) requirements-dev.lock
	@echo "Installing the test tools into $(VENV) (once, one to three minutes) ..."
	@$(PIP) install -r requirements-dev.lock
	@touch $@

# The first Python of at least 3.11; an environment that no longer runs is made anew.
define MAKE_VENV
$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && found=$$python && break; \
	done; \
	test -n "$$found" || { \
		echo "cdcloader needs Python 3.11 or later, and $(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) -V 2>&1)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	$$found -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "This Python lacks the venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }; \
	$$found -m venv --clear $(VENV); }
endef
