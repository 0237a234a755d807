# make demo | make test | make check. Each makes its own environment in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= Agg

.PHONY: demo test check format clean
.DEFAULT_GOAL := test

# One stamp for each set of extras; pyproject.toml is what they are made from.
$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " \
	  + sys.version.split()[0] + ": make PYTHON=python3.11 ...") \
	  if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-experiments
	$(BIN)/python -m experiments demo

# Quick is how XLA compiles most of them: see tests/compiling.py.
test: export ABSGD_TESTS = quick
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term --cov-fail-under=98

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info build
