# Two commands matter: `make demo` and `make test`. Everything sets itself up in .venv.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true
export GX_ANALYTICS_ENABLED = false

.PHONY: help up down setup lint types imports test-fast test-ml test-dags test bench study-kill study-mutations study-queue-crash study-queue-drain demo clean lock

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

setup: $(VENV)/.ready ## Make the virtual environment

# torch is named first and exactly in requirements.txt, so that its CPU build is taken.
$(VENV)/.ready: requirements.txt requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "expected $(PYTHON) on PATH; install Python 3.11 or set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages (a few minutes the first time) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(BIN)/python -c "import torch; print('torch', torch.__version__, '(CUDA ' + torch.version.cuda + ' build: larger than needed on a CPU)' if torch.version.cuda else '(CPU build)')"
	@touch $@

lint: setup ## ruff: rules and format; hadolint for the image
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile

up: ## Airflow on PostgreSQL and MLflow in containers (docker/env.example tells what to set)
	docker compose --file docker/compose.yaml up --build --detach --wait

down: ## Stop the containers; the data stay in their volumes
	docker compose --file docker/compose.yaml down

types: setup ## mypy, strict
	$(BIN)/mypy

imports: setup ## import-linter: who may import what
	$(BIN)/lint-imports --no-cache

test-fast: setup ## no Airflow database, no training
	$(BIN)/pytest -m "not ml and not airflow and not acceptance"

test-ml: setup ## tests that train models
	$(BIN)/pytest -m ml

test-dags: setup ## tests that need Airflow's database
	$(BIN)/pytest -m airflow

test: setup ## everything
	$(BIN)/pytest

study-kill: setup ## kill -9 in every step of a batch, 20 times each; SIZE=small twice each
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.kill

bench: setup ## One benchmark: NAME=manifest (a file of benchmarks/), SIZE=small for under a minute
	@test -n "$(NAME)" -a -f "benchmarks/$(NAME).py" || { echo "expected NAME=one of:" $$(cd benchmarks && ls *.py | sed -E '/^(__init__|common|killing|planted|postgres|queue_peers)/d; s/\.py//'); exit 2; }
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.$(NAME)

study-mutations: setup ## Does the verifier find every change of a sealed batch? (SIZE=small: a minute)
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.mutations

study-queue-crash: setup ## Kill -9 at random points of the queue, 200 times on each database
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.queue_crash

study-queue-drain: setup ## 250,000 requests, 4 workers on SQLite and 8 on PostgreSQL
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.queue_drain

demo: setup ## The whole story on a real Airflow scheduler; KEEP=1 leaves the pages up
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/r2u demo --root build/demo $(if $(KEEP),--keep,)

lock: setup ## Resolved lock for images
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//; s/ @ .*//' > requirements.lock

clean: ## Remove what demo and tests made
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: study-readiness
study-readiness: setup ## What Ready2Unlearn buys and costs (hours; goes on where it stopped): SEEDS=10, ONLY=mnist/class, SIZE=small
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.readiness.runner --seeds $(or $(SEEDS),10) $(if $(ONLY),--only $(ONLY))
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.readiness.tables

.PHONY: study-unlearning
study-unlearning: setup ## How near unlearning comes to retraining, and its price (an hour; goes on where it stopped): SEEDS=5, ONLY=mnist/class, SIZE=small
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.unlearning.runner --seeds $(or $(SEEDS),5) $(if $(ONLY),--only $(ONLY))
	$(if $(ONLY),,SIZE=$(SIZE) $(BIN)/python -m benchmarks.unlearning.peers)
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.unlearning.tables

.PHONY: study-controls
study-controls: setup ## How often is the gate fooled? Seven controls and a true retrain, both tiers (half an hour; goes on where it stopped): ONLY=digits, SIZE=small
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.controls.runner $(if $(ONLY),--only $(ONLY))
	SIZE=$(SIZE) $(BIN)/python -m benchmarks.controls.tables
