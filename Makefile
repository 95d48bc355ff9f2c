# Everything a fresh machine needs: `make demo` (the main job) and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?=
OUT    ?= demo-output
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup setup-dev demo test test-gpu lint types bench bench-gpu serve clean

# The stamp files say which extras are installed, so a second `make` installs nothing.
$(VENV)/.setup: pyproject.toml setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing slicemamba-nas into $(VENV) (a few minutes the first time) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(PIP) --editable '.[dev]'
	@touch $@

setup: $(VENV)/.setup
setup-dev: $(VENV)/.setup-dev

demo: setup
	$(BIN)/slicemamba demo --out $(OUT) $(if $(DATA),--data $(DATA))

test: setup-dev
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-gpu: setup-dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: setup-dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup-dev
	$(BIN)/mypy

bench: setup-dev
	$(BIN)/python -m benchmarks.scan
	$(BIN)/python -m benchmarks.network
	$(BIN)/python -m benchmarks.memory

bench-gpu: setup-dev
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.gpu --batch 1

serve: setup
	$(BIN)/slicemamba serve

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
