# make demo | test | test-quick | test-library | test-oldest | test-torch | coverage | docs |
# check | format | release-check | clean. Each makes its own environment: in .venv, or in
# .venv-oldest for test-oldest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST ?= .venv-oldest
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= Agg

.PHONY: demo test test-quick test-library test-oldest test-torch coverage docs check \
  format release-check clean
.DEFAULT_GOAL := test

# XLA compiles most tests with fewer optimizations, see tests/compiling.py. These are
# compiled as users' programs are: the weights, Algorithm 1, what a step costs, ABSGD at
# λ = ∞ against optax.sgd; and in all but `make test` what the library does on eight
# devices (without optimizations the oldest JAX rounds a norm over them much).
# JAX fixes the number of CPU devices when it starts; that there are eight changes nothing
# for a test that uses one.
BY_DEFAULT := $(patsubst %,tests/test_%.py,algorithm1 attention costs_guard experiments_sgd)
EIGHT_BY_DEFAULT := tests/eight_devices/test_costs_guard.py

# The library's tests, without those that need the packages of the experiments.
LIBRARY := absgd_jax README.md $(wildcard docs/*.md) $(patsubst %,tests/test_%.py,accelerators algorithm1 alias \
  attention buffers composition debug_flags diagnostics docs gradient losses messages package \
  radius stationary transform weights)
LIBRARY_EIGHT := $(patsubst %,tests/eight_devices/test_%.py,communication microbatches \
  one_update routes synchronised_norm)

PYTEST = -m pytest -n auto --dist worksteal
QUICK := ABSGD_TESTS=quick
EIGHT := XLA_FLAGS=--xla_force_host_platform_device_count=8
SLOWEST := --durations=25

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

test: $(VENV)/.installed-test
	$(QUICK) $(BIN)/python $(PYTEST) $(SLOWEST) $(addprefix --ignore=,$(BY_DEFAULT))
	$(EIGHT) $(BIN)/python $(PYTEST) $(SLOWEST) $(BY_DEFAULT) $(EIGHT_BY_DEFAULT)
	$(QUICK) $(EIGHT) $(BIN)/python $(PYTEST) $(SLOWEST) tests/eight_devices \
	  $(addprefix --ignore=,$(EIGHT_BY_DEFAULT))

test-quick: $(VENV)/.installed-test-library
	$(QUICK) $(BIN)/python $(PYTEST) $(LIBRARY)

test-library: test-quick
	$(EIGHT) $(BIN)/python $(PYTEST) $(LIBRARY_EIGHT)

# The lines of the library that its tests run. Tracing them takes a fifth of the time of
# all tests, so `make test` does not.
coverage: $(VENV)/.installed-test-library
	$(QUICK) $(BIN)/python $(PYTEST) --cov --cov-report= $(LIBRARY)
	$(EIGHT) $(BIN)/python $(PYTEST) --cov --cov-append --cov-report=term \
	  --cov-fail-under=98 $(LIBRARY_EIGHT)

test-oldest: $(OLDEST)/.installed
	$(QUICK) $(OLDEST)/bin/python $(PYTEST) $(LIBRARY)
	$(EIGHT) $(OLDEST)/bin/python $(PYTEST) $(LIBRARY_EIGHT)

# With an interpreter that has PyTorch: the variants of the benchmarks that are written in it.
test-torch: $(VENV)/.installed-test
	@test -x '$(TORCH_PYTHON)' || { echo "TORCH_PYTHON must be the path of an interpreter\
 that has PyTorch, got '$(TORCH_PYTHON)'."; exit 1; }
	TORCH_PYTHON='$(TORCH_PYTHON)' $(BIN)/python -m pytest -q tests/torch_check.py

# The site, with warnings as errors, and what can only be tested once it is built.
SITE ?= docs/_build/html
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -q -j 16 -E -W -n docs $(SITE)
	ABSGD_SITE=$(SITE) $(BIN)/python -m pytest -q tests/test_docs.py tests/site_check.py

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Builds both artefacts, checks them, and installs each in an environment of its own. With
# TAG=v0.1.0 the version and the changelog must be those of the tag.
release-check: $(VENV)/.installed-release
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python tests/release_check.py $(TAG)

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .ruff_cache .hypothesis *.egg-info build dist docs/_build
