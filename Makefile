# Adjourn: every target sets up what it needs by itself, from the pinned requirements.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What looks at the dependencies has some of its own, which are none of ours.
AUDIT := .tools/audit
SIZE ?= 1000000
COMPOSE ?= docker compose

.DEFAULT_GOAL := help
.PHONY: help setup run run-worker run-scheduler demo test fuzz test-slow chaos soak compose-test bench lint format audit sbom lock clean

help: ## Print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment (every other target does it when needed)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adjourn needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": try make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) (once)..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Run everything on this machine: scheduler, worker, embedded SQLite and Redis unless told otherwise
	@exec $(BIN)/adjourn run

run-worker: $(READY) ## Run a worker (dramatiq actors) against DATABASE_URL and REDIS_URL
	@exec $(BIN)/dramatiq actors

run-scheduler: $(READY) ## Run a scheduler (periodiq actors) against REDIS_URL
	@exec $(BIN)/periodiq actors

demo: $(READY) ## Watch real conversations being closed and expired, for a minute
	@exec $(BIN)/adjourn demo

test: $(READY) ## Run all tests (PostgreSQL and Redis come from wheels, or from DATABASE_URL and REDIS_URL)
	@$(BIN)/pytest $(PYTEST_ARGS)

fuzz: $(READY) ## Try bad input by the thousand, new each time (FUZZ_EXAMPLES=2000 a test; a finding prints its example)
	@FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),2000) $(BIN)/pytest -n0 --timeout 0 --hypothesis-show-statistics $(PYTEST_ARGS) tests/fuzz

test-slow: $(READY) ## Run the few tests that take long, with nothing beside them
	@$(BIN)/pytest -n0 -m slow $(PYTEST_ARGS)

chaos: $(READY) ## Break everything on purpose, under traffic, for half an hour (CHAOS_ARGS=--short: some four minutes)
	@$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

soak: $(READY) ## Run everything for an hour under traffic and faults, and see what grows (SOAK_ARGS=--short: a minute)
	@$(BIN)/python -m tests.soak $(SOAK_ARGS)

compose-test: $(READY) ## Start compose.yaml for real, break it and look (needs a container engine; COMPOSE="podman compose")
	@COMPOSE="$(COMPOSE)" $(BIN)/pytest -n0 -v -s --durations=5 --exitfirst tests/compose/checks.py

bench: $(READY) ## Measure beside the bare SQL, and see which targets hold (SIZE=1000000, BENCH_ARGS="--only drain --runs 3")
	@$(BIN)/python -m benchmarks --size $(SIZE) $(BENCH_ARGS)

lint: $(READY) ## Check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Mend style and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

audit: $(AUDIT)/.ready ## Look for known vulnerabilities in what is pinned (AUDIT_ARGS=--strict: fail where nobody can be asked)
	@$(AUDIT)/bin/python .ci/audit.py $(AUDIT_ARGS)

sbom: $(AUDIT)/.ready ## Write what a worker or scheduler consists of, with hashes, to build/sbom.cdx.json (CycloneDX)
	@mkdir -p build
	@$(AUDIT)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json requirements/base.txt
	@echo "build/sbom.cdx.json"

$(AUDIT)/.ready: requirements/audit.txt
	@$(PYTHON) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@touch $@

lock: ## Pin the dependencies anew, with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		$(LOCK_ARGS) pyproject.toml --group build -o requirements/base.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		$(LOCK_ARGS) pyproject.toml --group build --group container -c requirements/base.txt -o requirements/container.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		$(LOCK_ARGS) pyproject.toml --extra embedded --group build --group dev -c requirements/base.txt -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		$(LOCK_ARGS) --group audit -o requirements/audit.txt

clean: ## Remove the virtual environment, caches and the embedded data
	rm -rf $(VENV) .adjourn .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
