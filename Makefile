# Everything one does with this repository. Needs make and a Python >= 3.11, nothing else:
# the first call installs into .venv, later calls work offline and start at once.
#
#   make test ARGS="-k kill"          further arguments for the program that is run
#   make PYTHON=/path/to/python test  the Python to make .venv with (only when it is made)

export PYTHON
ARGS ?=
# Test files run in so many processes at a time; JOBS=0: one after the other, in this one.
JOBS ?= 3
PY := .venv/bin/python
# Beside the whole suite on .venv, these run on every other Python that is found.
EVERYWHERE ?= $(wildcard tests/test_imports.py tests/test_first_use.py tests/test_conformance*.py)

.NOTPARALLEL:
.PHONY: help demo test test-everywhere lint types wheel test-wheel reliability simulate coverage bench check format clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name text; do printf '  make %-17s %s\n' "$$name" "$$text"; done

demo: ## the main job on real input: examples/survey.py
	@.ci/venv .venv run
	$(PY) examples/survey.py $(ARGS)

test: ## the whole suite, then its core on every other Python found
	@.ci/venv .venv dev
	.ci/twice $(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)
	@$(MAKE) --no-print-directory test-everywhere

test-everywhere: ## conformance on every other Python found (python3.x, pyenv)
	@.ci/venv .venv dev
	@.ci/test-everywhere $(EVERYWHERE)

lint: ## ruff: rules and format
	@.ci/venv .venv dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: ## mypy --strict
	@.ci/venv .venv dev
	$(PY) -m mypy

wheel: ## sdist, the wheel built from it, and a check of what it holds
	@.ci/venv .venv dev
	rm -rf dist
	@echo "$(PY) -m build --no-isolation"
	@$(PY) -m build --no-isolation > dist.log 2>&1 || { cat dist.log; exit 1; }
	@rm -f dist.log
	$(PY) .ci/check_wheel.py

# From inside .venv-wheel and with -P: in the root of the checkout, `import unirun` would find
# the sources that lie there instead of the wheel.
test-wheel: wheel ## against the installed wheel: its core, and what `make test` leaves out
	@.ci/venv .venv-wheel wheel
	cd .venv-wheel && bin/python -P ../.ci/check_installed.py
	cd .venv-wheel && ../.ci/twice bin/python -P -m pytest -c ../pyproject.toml --rootdir .. $(addprefix ../,$(EVERYWHERE)) $(ARGS)
	cd .venv-wheel && ../.ci/twice bin/python -P -m pytest -c ../pyproject.toml --rootdir .. -m again -n $(JOBS) --dist loadfile ../tests $(ARGS)

reliability: ## the tests of all scenarios, which write the table of docs/reliability.md
	@.ci/venv .venv dev
	$(PY) -P -m pytest -m scenario --reliability=docs/reliability.md tests $(ARGS)

# 100,000 seeds take some minutes; ARGS="--seconds 600" goes on for that long, ARGS="--seed 7" shows one.
simulate: ## the state machines in virtual time, under faults of every kind
	@.ci/venv .venv dev
	$(PY) -P -m unirun.testing.simulate $(ARGS)

coverage: ## the whole suite, measured with its worker processes
	@.ci/venv .venv dev
	$(PY) -m coverage run -m pytest $(ARGS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

# From the root, for benchmarks/ is not installed; it sees to it that the wheel is measured.
bench: wheel ## the installed wheel beside its peers, see benchmarks/README.md
	@.ci/venv .venv-bench wheel
	@.venv-bench/bin/python -c "import loky, pebble" 2>/dev/null || .venv-bench/bin/python -m pip install --quiet --no-input --disable-pip-version-check loky pebble || echo "-- loky and pebble cannot be installed; their rows will say so"
	.venv-bench/bin/python -m benchmarks $(ARGS)

check: test lint types test-wheel ## all of it, as .ci/run does

format: ## let ruff rewrite what it can
	@.ci/venv .venv dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean: ## remove what was built and cached
	rm -rf build dist dist.log *.egg-info htmlcov .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -path './.*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the virtual environments too
	rm -rf .venv .venv-*
