# One command for each thing that is done with this repository. All but `help` and `clean` make a virtual environment
# on demand: they need python3 (3.11 or newer, with venv) and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
MINUTES ?= 2
WORKERS ?= 2

bin := $(VENV)/bin
installed := $(VENV)/.installed
# protoc and buf plug-ins are looked up by name.
export PATH := $(abspath $(bin)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo up test soak lint format proto compatibility baseline bench bench-peers bench-scheduling chaos docs clean

help: ## List the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(installed): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(installed) ## Run some twenty real jobs through boto3 and tell how each went
	@$(bin)/python examples/demo.py $(ARGS)

up: $(installed) ## Start Batchyard here, with its state in .batchyard
	@$(bin)/batchyard up --data-dir .batchyard $(ARGS)

test: $(installed) ## Run the tests (ARGS='-k name' for some of them, WORKERS=0 for one after the other)
	@$(bin)/pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

SEEDS ?= 1000
FIRST_SEED ?= 1

soak: $(installed) ## Simulate many seeds on all cores (SEEDS=N FIRST_SEED=M)
	@PYTHONPATH=tests $(bin)/python -m simulation --seeds $(SEEDS) --first-seed $(FIRST_SEED)

lint: $(installed) ## Check format, style, types, import contracts, protos and generated stubs
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/buf lint
	$(bin)/buf format --diff --exit-code
	$(bin)/buf breaking --against protos/baseline.binpb
	$(bin)/python scripts/generate_protos.py --check
	$(bin)/python scripts/generate_compatibility.py --check
	$(bin)/python scripts/generate_runtimes.py --check

format: $(installed) ## Format the code and the protos, and mend what ruff can mend
	$(bin)/ruff check --fix --exit-zero --quiet .
	$(bin)/ruff format .
	$(bin)/buf format --write

proto: $(installed) ## Generate the stubs beside the .proto files
	$(bin)/buf format --write
	$(bin)/buf lint
	$(bin)/python scripts/generate_protos.py

compatibility: $(installed) ## Write docs/compatibility.md and docs/runtimes.md anew, after a change of the API or of what it does
	$(bin)/python scripts/generate_compatibility.py
	$(bin)/python scripts/generate_runtimes.py

baseline: $(installed) ## Renew the image that public protos must stay compatible with (at releases)
	$(bin)/buf build --exclude-source-info --output protos/baseline.binpb

chaos: $(installed) ## Harm real processes under load for MINUTES (default 2), then check that nothing was lost or ran twice
	@PYTHONPATH=tests $(bin)/python -m chaos --minutes $(MINUTES) $(ARGS)

bench: $(installed) ## Measure throughput, latency and growth beside the floor of this machine (ARGS='array-1000 --scale 0.1')
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@PYTHONPATH=tests $(bin)/python -m benchmarks $(ARGS)

PEERS ?= .venv-peers

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	@touch $@

bench-peers: $(PEERS)/.installed ## Measure HyperQueue and moto with the same work
	@$(PEERS)/bin/python -m benchmarks.peers $(ARGS)

bench-scheduling: $(installed) ## Simulate the scheduler in virtual time beside FIFO and EASY, then at scale (ARGS='--agents 0': not)
	@PYTHONPATH=tests $(bin)/python -m benchmarks.scheduling $(ARGS)

docs: $(installed) ## Build the documentation as a site in build/site
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet

clean: ## Remove the virtual environment and everything that tools have left
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
