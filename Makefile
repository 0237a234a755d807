# make demo | test | test-quick | test-oldest | check | format | clean. Each makes its own
# environment: in .venv, or in .venv-oldest for test-oldest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST ?= .venv-oldest
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= Agg

.PHONY: demo test test-quick test-oldest check format clean
.DEFAULT_GOAL := test

# The library's tests, as ABSGD_TESTS=quick runs them: see tests/compiling.py. The five
# that are left out need the packages of the experiments.
LIBRARY_TESTS := absgd_jax README.md $(patsubst %,tests/test_%.py,accelerators alias buffers \
  compiled_by_default composition debug_flags devices diagnostics gradient losses messages \
  package radius stationary weights) \
  $(patsubst %,--deselect 'tests/test_%]',compiled_by_default.py::test_compiled_by_default[test_costs_guard \
  compiled_by_default.py::test_compiled_by_default[test_experiments_sgd \
  devices.py::test_on_eight_devices[test_costs_guard \
  devices.py::test_on_eight_devices[test_recipe_linen_pmap \
  devices.py::test_on_eight_devices[test_training)

# "jax==0.8.0 optax==0.2.6": the oldest versions that pyproject.toml allows the library.
OLDEST_VERSIONS = $(shell sed -n '/^dependencies = /s/>=/==/gp' pyproject.toml \
  | grep -o '[a-z]*==[0-9.]*')

# One stamp for each set of extras; pyproject.toml is what they are made from.
$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " \
	  + sys.version.split()[0] + ": make PYTHON=python3.11 ...") \
	  if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

$(OLDEST)/.installed: pyproject.toml
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[test-library]' $(OLDEST_VERSIONS)
	@touch $@

demo: $(VENV)/.installed-experiments
	$(BIN)/python -m experiments demo

# Quick is how XLA compiles most of them: see tests/compiling.py.
test: export ABSGD_TESTS = quick
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term --cov-fail-under=98

# The library alone.
test-quick: export ABSGD_TESTS = quick
test-quick: $(VENV)/.installed-test-library
	$(BIN)/python -m pytest -n auto --dist worksteal $(LIBRARY_TESTS)

test-oldest: export ABSGD_TESTS = quick
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n auto --dist worksteal $(LIBRARY_TESTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
