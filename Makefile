# Everything a fresh machine needs: `make demo` (the main job) and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?=
OUT    ?= demo-output
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup setup-dev demo test test-quick test-gpu chaos partitions lint types docs bench bench-gpu serve wheel docker clean

# The stamp files say which extras are installed, so a second `make` installs nothing. With the tests' packages the
# product is installed too: in one step, as each compiles the native scan.
$(VENV)/.setup $(VENV)/.setup-dev: pyproject.toml setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing slicemamba-nas into $(VENV) (a few minutes the first time) ..."
	$(PIP) --editable '.$(if $(findstring dev,$(notdir $@)),[dev])'
	@touch $(VENV)/.setup $@

setup: $(VENV)/.setup
setup-dev: $(VENV)/.setup-dev

demo: setup
	$(BIN)/slicemamba demo --out $(OUT) $(if $(DATA),--data $(DATA))

# A file's tests stay together, as they share what is costly; those that start a Ray come first (tests/conftest.py).
# Tests start hundreds of processes, each of which would compile our modules anew where Python is told to keep none.
WORKERS ?= 2
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup-dev
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

# For the work in between.
test-quick: setup-dev
	$(PYTEST) -m "not slow and not gpu and not ray and not e2e and not long" $(ARGS)

test-gpu: setup-dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

# SIGKILLs at random over everything that takes part in a search; KILLS=50 is what `make test ARGS=-m\ slow` does.
KILLS ?= 200
chaos: setup-dev
	SLICEMAMBA_CHAOS_KILLS=$(KILLS) $(BIN)/python -m pytest -s -m slow tests/e2e/test_chaos.py $(ARGS)

# Hosts cut off from one another, and slow links that lose; needs root. CUT="driver and 120" runs one condition.
CUT ?= test
partitions: setup-dev
	$(BIN)/python -m pytest -s -m slow tests/e2e/test_lossy_switch.py tests/e2e/test_partitions.py -k "$(CUT)" $(ARGS)

lint: setup-dev types docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup-dev
	$(BIN)/mypy

# Strict: a link that leads nowhere or a page that is missing from the navigation is an error.
docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "documentation: build/site/index.html"

bench: setup-dev
	$(BIN)/python -m benchmarks.scan
	$(BIN)/python -m benchmarks.network
	$(BIN)/python -m benchmarks.memory

bench-gpu: setup-dev
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.gpu --batch 1

serve: setup
	$(BIN)/slicemamba serve --local $(if $(DATA),--data $(DATA))

wheel: setup-dev
	$(BIN)/python -m build

# TARGET=gpu: with CUDA and mamba_ssm, whose kernels take long to compile.
TARGET ?= cpu
docker:
	docker build --file docker/Dockerfile --target $(TARGET) \
		--tag slicemamba-nas:$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)-$(TARGET) .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
