# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers

.PHONY: demo test test-all test-matrix lint fuzz verify mutants template-mutants bench bench-sharded double-descent check-generated clean

demo: $(READY)
	$(BIN)/optforge check specs/namo.opt
	$(BIN)/optforge build
	$(BIN)/python -m examples.gpt2

test: $(READY)
	$(MAKE) --jobs 2 --output-sync lint check-generated
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not wide and not peers"

test-all: test $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "wide or peers"

# The same tests with the oldest torch that pyproject.toml allows, and with the newest there is. Each has an environment
# of its own: half an hour on two cores, and up to 12 GB where torch comes with CUDA's libraries.
OLDEST_TORCH := torch==2.9.*
NEWEST_TORCH := torch
MATRIX := $(VENV)-oldest $(VENV)-newest

test-matrix: $(MATRIX:=/.ready)
	for each in $(MATRIX); do \
		$$each/bin/python -c "import torch; print('torch', torch.__version__)" && \
		OMP_NUM_THREADS=1 $$each/bin/python -m pytest -n auto --dist worksteal -m "not wide and not peers" || exit 1; \
	done

$(VENV)-oldest/.ready: TORCH := $(OLDEST_TORCH)
$(VENV)-newest/.ready: TORCH := $(NEWEST_TORCH)
$(VENV)-%/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	grep -vE '^(torch|triton)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint $(@D)/constraints.txt \
		--editable ".[dev]" "$(TORCH)"
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p optforge.dsl -p optforge.compiler -p optforge.runtime -p tools

check-generated: $(READY)
	$(BIN)/optforge build --check
	$(BIN)/python -m tools.catalogue --check
	$(BIN)/optforge fmt --check specs

fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.programs

double-descent: $(READY)
	$(BIN)/python -m examples.double_descent

verify: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/optforge verify specs

# Any other name that has a counterpart will do: make mutants MUTANTS="Lion Muon"
MUTANTS := AdamW NAMO NAMOD Muon NorMuon Nora RMNP SophiaG SophiaH SGD Adam AMSGrad Adamax NAdam RAdam RMSprop Rprop Adagrad Adadelta ASGD Adafactor

mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.mutants $(MUTANTS) --write benchmarks/MUTANTS.md

# What all generated classes share, broken on purpose: about half an hour.
template-mutants: $(READY)
	$(BIN)/python -m tests.runtime.template_mutants --write

# About half an hour on two cores; nothing else should run meanwhile.
bench: $(PEERS)
	$(BIN)/python -m benchmarks.compiler_speed
	$(BIN)/python -m benchmarks.optimizers --write

# Sharded steps on two and on four processes: about two minutes on two cores; nothing else should run meanwhile.
bench-sharded: $(READY)
	$(BIN)/python -m benchmarks.sharded --write

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

# The published packages that specs are compared with, and those in whose loops examples train.
$(PEERS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[browser,data,dev,ecosystem,peers,triton]"
	touch $(PEERS)

clean:
	rm -rf $(VENV) $(MATRIX) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
