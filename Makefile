# `make` needs only Python >= 3.11, git and a network that reaches PyPI; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := -m pytest -n 3 --dist worksteal -p no:benchmark
# Of the newest stack: PYTHON= where it is given, else the newest that starts, from the path or from pyenv.
NEWEST_PYTHON = $(if $(filter command environment,$(firstword $(origin PYTHON))),$(PYTHON),$(shell \
  for version in 3.14 3.13 3.12; do for python in python$$version $(HOME)/.pyenv/versions/$$version*/bin/python3; do \
  $$python -c '' 2>/dev/null && echo $$python && exit; done; done))

.PHONY: demo test test-newest newest-python slow lint bench clean

demo: $(STAMP)
	$(BIN)/bnn-jax demo

test: lint
	$(BIN)/python $(PYTEST)

# Whatever releases pyproject.toml lets in are newest today: made anew each time. What is left out here repeats on this
# stack what other tests run on it, or does not depend on a release of JAX; the lock has all of it.
ONCE := $(addprefix --ignore=,tests/benchmarks tests/comparison tests/experiments tests/fuzz tests/metrics \
  tests/recalibration tests/statistics/test_wrong_samplers.py docs/methods.md docs/rigidity.md)
test-newest: newest-python
	$(NEWEST_PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	.venv-newest/bin/python $(PYTEST) $(ONCE)

newest-python:
	@test -n "$(NEWEST_PYTHON)" && $(NEWEST_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "The newest JAX needs Python 3.12 or newer, and none was found; name one: make PYTHON=... test-newest" >&2; exit 1; }
	@echo $(NEWEST_PYTHON)

slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/pyright

# Other options than the tests': no run-time type checks in what is timed, and no import of peers that are not installed.
bench: $(STAMP)
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,iqr,rounds \
	  -o addopts="--import-mode=importlib --strict-markers --strict-config"

clean:
	rm -rf .venv .venv-newest .pytest_cache .ruff_cache .import_linter_cache .benchmarks .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "bnn_jax needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one, for instance: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  $(PYTHON) -m venv .venv; \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(STAMP)
