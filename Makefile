# StackLens Enrichment: every command of daily work. `make` lists them.

PYTHON ?= python3
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := $(wildcard requirements*.txt) constraints.txt
STAMP := $(VENV)/.installed
# Before commands about a stack: without .venv there is none.
IF_MADE := [ -f $(STAMP) ] || { echo 'nothing was started: $(VENV) is not made yet'; exit 0; };
LOCAL := PYTHONPATH=plugins:. $(BIN)/python -m include.local

# Compiled code is kept, wherever we run: without it each of Airflow's processes compiles Airflow anew when it starts.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run up status logs airflow sql group check stop clean test test-quick bench lint format setup constraints

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12     another Python for .venv (3.11, 3.12 or 3.13)'
	@echo '  INPUT=logs.jsonl.gz   play this file with `make run` (plain or gzip); COUNT=50000 generates as many'
	@echo '  LOCAL_START_TIMEOUT_SEC=1200   wait longer for a component that is slow to start (600)'
	@echo '  LOCAL_DIR=.local       where the stack keeps its files; USER_SERVICE_POPULATION=1000000   users that its service knows'
	@echo '  AIRFLOW_PORT, KAFKA_PORT, KAFKA_CONTROLLER_PORT, POSTGRES_PORT, USER_SERVICE_PORT   other ports'
	@echo '  KAFKA_BOOTSTRAP_SERVERS, STACKLENS_DATABASE_URL, USER_SERVICE_URL   use your own servers'

run: setup ## Start everything, enrich messages, report what became of them (INPUT=, COUNT=)
	@$(LOCAL) run $(if $(INPUT),--input='$(subst ','\'',$(INPUT))') $(if $(COUNT),--count='$(COUNT)')

up: setup ## Start everything and play nothing
	@$(LOCAL) up

status: ## Say what runs, and where its log is
	@$(IF_MADE) $(LOCAL) status || true

logs: ## Show a component's log (NAME=scheduler, FOLLOW=1 goes on; without a name, which there are)
	@$(IF_MADE) $(LOCAL) logs $(if $(FOLLOW),--follow) $(NAME)

airflow: ## Run an `airflow` command on the running stack (ARGS='dags list')
	@$(IF_MADE) $(LOCAL) airflow $(ARGS)

sql: ## Ask the StackLens database (ARGS='SELECT ...'; without it, a prompt)
	@$(IF_MADE) $(LOCAL) sql $(if $(ARGS),'$(subst ','\'',$(ARGS))')

group: ## See or change the group of live draining: `status`, `set-lanes 2`, `accept-offsets 0=9` (ARGS='status')
	@$(IF_MADE) $(LOCAL) group $(ARGS)

check: ## Prove that no message was lost, doubled or altered (ARGS='--help' has more)
	@$(IF_MADE) $(LOCAL) check $(ARGS)

stop: ## Stop everything that was started
	@$(IF_MADE) $(LOCAL) down

clean: ## Stop everything and remove what was made, .venv included
	@if [ -f $(STAMP) ]; then $(LOCAL) clean; fi
	@rm -rf $(VENV) benchmarks/results .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

test: setup ## Run the tests (ARGS='-k geo' for some, JOBS=2 side by side)
	@$(BIN)/python -m pytest $(if $(JOBS),-n $(JOBS) --no-loadscope-reorder) $(ARGS)

test-quick: setup ## Run the tests that need no services or processes (ARGS='-k geo' for some)
	@$(BIN)/python -m pytest -q -m 'not services and not processes' --hypothesis-profile=quick \
	  tests/enrichment tests/test_readme.py tests/test_rooms.py $(ARGS)

bench: setup ## Measure, on the real Kafka: benchmarks/results/latest.json (ARGS='--only peers' for some)
	@PYTHONPATH=plugins:. $(BIN)/python -m benchmarks $(ARGS)

lint: setup ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Bring the code into its format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

setup: $(STAMP) ## Make .venv from the pinned requirements

# The stamp holds a checksum of what was installed: it is out of date when that changes, whatever the files' times say.
INSTALLED = $(shell { cat $(REQUIREMENTS); echo $(UV_VERSION); } | cksum)
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(INSTALLED))
.PHONY: $(STAMP)
endif

$(STAMP):
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: $(PYTHON) is not installed: install Python 3.11, 3.12 or 3.13, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) --version >/dev/null 2>&1 || \
	  { echo "error: $(PYTHON) is there but does not run (a version manager's shim?): name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "error: $$($(PYTHON) --version) will not do: name Python 3.11, 3.12 or 3.13 with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) lacks venv or ensurepip: install its package python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version): about 800 MB, a minute or two"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION) || $(UNREACHABLE)
	@# What uv says as it goes, but for the list of two hundred packages at its end.
	@{ $(BIN)/uv pip install --python $(BIN)/python -r requirements-dev.txt -c constraints.txt 2>&1 || touch $(VENV)/.failed; } \
	  | grep -v '^ [+~-] ' | sed 's/^ */  /'
	@[ ! -f $(VENV)/.failed ] || $(UNREACHABLE)
	@echo "  Compiling the loops over messages, which are kept"
	@PYTHONPATH=plugins $(BIN)/python -c 'import enrichment.batches.pipeline'
	@echo '$(INSTALLED)' > $@

UNREACHABLE = { echo "error: packages could not be installed: is the package registry reachable? (see the lines above)" >&2; exit 1; }

constraints: setup ## Pin again all that the requirements need in turn
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	  --custom-compile-command 'make constraints' requirements-dev.txt -o constraints.txt
