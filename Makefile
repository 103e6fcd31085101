# make run    everything from text to a page that answers     make test   lint and the tests
# make bench  our figures beside the peers'                   make lint   format, lint and types
PYTHON ?= python3
BIN := .venv/bin
EXAMPLE ?= examples/shakespeare
RUN_FLAGS ?=
PROGRAMS := chromium redis-server g++
MISSING := $(strip $(foreach program,$(PROGRAMS),$(if $(shell command -v $(program)),,$(program))) \
  $(if $(wildcard /usr/lib/postgresql/*/bin/initdb),,postgresql))

.PHONY: run test test-slow lint format bench docs setup clean
.DELETE_ON_ERROR:

run: .venv/run.stamp
	$(BIN)/platen run $(EXAMPLE) --serve $(RUN_FLAGS)

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Platen needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

# The stamps hold what is installed, so that a second `make` installs nothing.
.venv/run.stamp: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

setup: .venv/dev.stamp
ifneq ($(MISSING),)
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(MISSING)
endif

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A file's tests stay in one process, which makes what they share once.
test: setup lint
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: setup lint
	$(BIN)/pytest -m 'slow or not slow' --timeout=1800

bench: .venv/dev.stamp
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script $(BENCH_FLAGS) || exit 1; done

docs: .venv/dev.stamp
	$(BIN)/platen schema > docs/platen.schema.json
	$(BIN)/platen schema --markdown > docs/project-file.md

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
