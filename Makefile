# make demo       the whole experiment on an offline world, on a CPU, in minutes
# make test       all tests
# make check      format, lint, types, fast tests
# make test-verl  the adapters in the real verl and OpenRLHF, in an environment of their own (2 GB)
# make golden     write the golden trajectories anew (say why in the commit)
# make clean      remove the environment and all runs

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The suite runs on two processes of one thread each; see tests/conftest.py.
TEST_PROCESSES ?= 2

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check golden clean install test-verl
.DEFAULT_GOAL := demo

install: $(VENV)/installed

# torch comes first and by its pin: a plain or ranged torch pulls gigabytes of CUDA packages.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/rewardladder run configs/demo.yaml

test: install
	$(BIN)/coverage erase
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov --cov-report= --durations=15
	$(BIN)/coverage report --skip-covered --fail-under=90

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not slow"

# verl and OpenRLHF pin other libraries than ours; their callers run on a CPU.
VERL := .venv-verl

test-verl: install $(VERL)/installed
	$(BIN)/pytest tests/test_verl.py tests/test_adapters_openrlhf.py

$(VERL)/installed: constraints.txt
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/pip install --quiet --constraint constraints.txt torch
	$(VERL)/bin/pip install --quiet verl==0.9.1 scipy statsmodels
	$(VERL)/bin/pip install --quiet --no-deps openrlhf==0.11.0
	touch $@

golden: install
	$(BIN)/python -m tests.golden.write

clean:
	rm -rf $(VENV) $(VERL) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
