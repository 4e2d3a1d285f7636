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
.PHONY: help demo test test-everywhere lint types wheel test-wheel test-dask test-ray test-integrations reliability simulate coverage docs check-dist bench bench-results bench-check check format clean distclean

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

# With Python 3.12 or later where there is one, since Django 6 needs it.
test-integrations: ## with the real joblib, scikit-learn, Dask, Django, FastAPI and a notebook
	@.ci/venv .venv-integrations integrations "$$(.ci/find-python 3.13 || .ci/find-python 3.12 || .ci/find-python)"
	.ci/twice .venv-integrations/bin/python -P -m pytest -m integrations tests/integrations $(ARGS)
	.ci/twice .venv-integrations/bin/python -P -m pytest -q tests/test_docs.py -k "others_do and integrations" $(ARGS)

# A browser opens docs/_build/html/index.html; nothing is fetched for it.
docs: ## the site of docs/, strictly; and the programs on its pages that need other libraries
	@.ci/venv .venv-docs docs
	.venv-docs/bin/python -P .ci/write_docs.py --check
	.venv-docs/bin/python -P -m sphinx -W --keep-going -q -b html docs docs/_build/html
	.venv-docs/bin/python -P -m pytest -q tests/test_docs.py -k others_do $(ARGS)

# Of pyright only what it says of the names that are public; it needs Node, and fetches itself once.
check-dist: wheel ## sdist and wheel as an index sees them; all extras resolve; public names are typed
	@.ci/venv .venv-release release
	.venv-release/bin/python -m twine check --strict dist/*
	.venv-release/bin/check-wheel-contents dist/*.whl
	.venv-release/bin/python -m pip install --quiet --disable-pip-version-check --dry-run "$$(ls dist/*.whl)[all]"
	cd .venv-release && PATH="$$PWD/bin:$$PATH" pyright --verifytypes unirun --ignoreexternal --outputjson > types.json; bin/python -P ../.ci/check_types.py < types.json

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

test-dask: ## every promise of a backend on Dask, and on other executors of concurrent.futures
	@.ci/venv .venv dev
	.ci/twice $(PY) -P -m pytest -m "engines or not engines" tests/test_dask.py tests/test_dask_data.py tests/test_dask_objects.py tests/test_far_tunnel.py tests/test_dask_conformance.py tests/test_futures.py $(ARGS)

# In an environment of its own: Ray is large, and has no wheels for some of the Pythons.
test-ray: ## every promise of a backend on Ray
	@.ci/venv .venv-ray ray
	.ci/twice .venv-ray/bin/python -P -m pytest -m "engines or not engines" tests/test_ray.py tests/test_ray_conformance.py 'tests/test_sample.py::test_by_a_variable_it_prints_the_same_on_every_backend[ray]' $(ARGS)

# From the root, for benchmarks/ is not installed; it sees to it that the wheel is measured.
PEERS = .venv-bench/bin/python -c "import distributed, joblib, loky, matplotlib, mpire, pebble" 2>/dev/null || .venv-bench/bin/python -m pip install --quiet --no-input --disable-pip-version-check "$$(ls dist/*.whl)[bench]" || echo "-- some peers cannot be installed; their rows will say so"

bench: wheel ## the installed wheel beside its peers, see benchmarks/README.md
	@.ci/venv .venv-bench wheel
	@$(PEERS)
	.venv-bench/bin/python -m benchmarks $(ARGS)

# Takes ten minutes of a machine that does nothing else; commit what it has written.
bench-results: wheel ## measure what README.md and docs/ show, and write it there
	@.ci/venv .venv-bench wheel
	@$(PEERS)
	.venv-bench/bin/python -m benchmarks.results $(ARGS)

bench-check: wheel ## counts of what a call costs, beside the budgets in benchmarks/budgets.toml
	@.ci/venv .venv-bench wheel
	.venv-bench/bin/python -m benchmarks.check $(ARGS)

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
