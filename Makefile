# Everything a newcomer, a developer and CI run. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup run test lint types unit kernel api faults node versions reproducible wheels fuzz soak audit sbom bench generate lock docs demo demo-down clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with locked dependencies and the sockethealth command in it

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sockethealth needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1). Set PYTHON=python3.x." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

run: setup ## show the socket health of this machine's network namespaces; no cluster needed
	@$(BIN)/sockethealth scan

test: lint types ## everything that can be tested here: lint, types, unit, kernel, API server, node
	$(BIN)/python tools/test.py -q

lint: setup ## style, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## mypy, strict
	$(BIN)/mypy

unit: setup ## tests that need nothing
	$(BIN)/python -m pytest tests/unit

kernel: setup ## tests on this machine's kernel: root and network namespaces
	$(BIN)/python -m pytest tests/kernel

api: setup ## tests on a real API server
	$(BIN)/python -m pytest tests/api

faults: setup ## an API server that fails in every way, and what survives
	$(BIN)/python -m pytest tests/faults

node: setup ## end-to-end tests on a real node
	$(BIN)/python -m pytest tests/node

# The oldest one that the chart takes, and the newest one that there is; and the tests whose outcome the API server decides.
VERSIONS ?= v1.31.0 v1.36.3
VERSION_TESTS := packaging admission admission_policies profile_admission agent_reporter operator_findings

versions: setup ## tests on API servers of the oldest and the newest Kubernetes; they take 20 minutes to build once
	@for version in $(VERSIONS); do echo "Kubernetes $$version"; \
	  SOCKETHEALTH_TEST_KUBERNETES=$$version $(BIN)/python -m pytest -q \
	  $(VERSION_TESTS:%=tests/api/test_%.py) || exit 1; done

reproducible: setup ## build the image twice; fails when what the Dockerfile adds differs
	@PYTHONPATH=tests $(BIN)/python -m harness reproducible

# Python of the Dockerfile's default base, and the processors the image is for.
IMAGE_PYTHON := $(shell sed -n 's/^ARG BASE=.*python:\([0-9.]*\).*/\1/p' Dockerfile)
ARCHITECTURES ?= x86_64 aarch64

wheels: setup ## fetch every locked dependency as a wheel for each processor the image is for
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && for arch in $(ARCHITECTURES); do \
	  $(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
	    --python-version $(IMAGE_PYTHON) --implementation cp \
	    --platform manylinux_2_28_$$arch --platform manylinux_2_17_$$arch --platform manylinux2014_$$arch \
	    -r requirements/runtime.txt --dest "$$folder/$$arch" || exit 1; \
	  echo "$$arch: $$(ls "$$folder/$$arch" | wc -l) wheels for Python $(IMAGE_PYTHON)"; done

# How long each target is fuzzed; TARGETS="netlink expression" for some of them.
SECONDS_EACH := $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),60)

fuzz: setup ## look for inputs that break a parser, SECONDS=60 for each target
	@$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/fuzz.txt
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS_EACH) $(TARGETS)

# What it measured is in dist/soak: a table, and every reading.
MINUTES ?= 60

soak: setup ## pods, leaks, profiles and policies come and go on a real node; MINUTES=60
	SOCKETHEALTH_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -q tests/node/test_e2e_soak.py

# Strict: where the index does not answer, nothing was audited, and that is a failure.
audit: setup ## ask the package index for known vulnerabilities of every locked dependency
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
	  $(VENV)/audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt; }
	@for file in runtime build dev; do echo "requirements/$$file.txt"; \
	  $(VENV)/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
	  -r requirements/$$file.txt || exit 1; done

sbom: setup ## list what the image has from the package index, as CycloneDX, in dist/sbom.cdx.json
	@$(BIN)/python tools/sbom.py

bench: setup ## benchmarks, each figure beside what it is compared with; NAMES="dump sweep" for some
	@$(BIN)/python -m benchmarks $(NAMES)

generate: setup ## write CRDs and the chart's copies from the types in core/
	$(BIN)/python tools/generate.py

docs: setup ## the documentation site, in site/; fails at a warning
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site

demo: setup ## a one-node cluster with the chart and three badly behaved workloads; prints what to look at
	@PYTHONPATH=tests $(BIN)/python demo/demo.py up

demo-down: setup ## remove all of `make demo`
	@PYTHONPATH=tests $(BIN)/python demo/demo.py down

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

lock: setup ## resolve the dependencies anew and write requirements/*.txt with hashes
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --group fuzz -o requirements/fuzz.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --group audit --constraint requirements/dev.txt -o requirements/audit.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	  $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --constraint requirements/dev.txt - -o requirements/build.txt
