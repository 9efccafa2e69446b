# Two commands on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.
# Each sets up what it needs in .venv, once; `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
CODE := $(wildcard src tests tools benchmarks examples)
# Test files run side by side; a process takes about two gigabytes of memory.
PYTEST := $(BIN)/pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: help quickstart test test-slow clients check lint types tests format docs docs-serve clean

help:
	@echo "make quickstart  train, score and merge an adapter on the bundled model (about half a minute, offline)"
	@echo "make test        lint, types and tests: what CI runs"
	@echo "make test-slow   the longer tests as well"
	@echo "make clients     environments in .clients for the tests with other people's clients (lm-eval, LangChain, …)"
	@echo "make check       lint and types only"
	@echo "make format      put the code in its one format"
	@echo "make docs        the documentation site in build/site; a broken link or a missing page fails"
	@echo "make docs-serve  the site at http://127.0.0.1:8001, built again whenever a page changes"
	@echo "make clean       remove .venv and caches"

quickstart: $(VENV)/installed
	$(BIN)/tailora quickstart

test: check tests

check: lint types

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(VENV)/installed-dev
	$(BIN)/mypy

tests: $(VENV)/installed-dev
	$(PYTEST)

# Each client of the server has an environment of its own: their requirements exclude one another.
clients: $(VENV)/installed-dev
	for client in langchain:langchain-openai litellm:litellm llm:llm 'lm-eval:lm_eval[api] torch transformers'; do \
	  $(BIN)/python -m venv .clients/$${client%%:*} && \
	  .clients/$${client%%:*}/bin/python -m pip install --quiet $${client#*:} || exit 1; done

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m "slow or not slow"

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(VENV)/installed-docs | .docs-cache/mermaid.min.js
	$(BIN)/mkdocs build

docs-serve: $(VENV)/installed-docs | .docs-cache/mermaid.min.js
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

# The site draws its diagrams with its own copy of Mermaid, so that it works offline. Without npm the browser fetches one.
.docs-cache/mermaid.min.js:
	@mkdir -p $(@D)
	@npm pack --silent --pack-destination $(@D) mermaid@11.12.0 >/dev/null && \
	  tar -xzf $(@D)/mermaid-11.12.0.tgz -C $(@D) --strip-components 2 package/dist/mermaid.min.js && rm $(@D)/*.tgz || \
	  echo "npm is not available: browsers will fetch Mermaid from the network"

clean:
	rm -rf .docs-cache $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with its venv module is needed (Debian: apt install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable ".[docs]"
	@touch $@
