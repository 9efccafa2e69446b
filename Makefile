# Two commands on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.
# Each sets up what it needs in .venv, once; `make help` lists the others.

VENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
  EXE := .exe
else
  BIN := $(VENV)/bin
endif
# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# An empty value (make CONSTRAINTS=) takes the newest releases.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# Per cent of the lines that the tests reach without the optional packages (Ray, trackers, llama.cpp, Java).
COVERAGE_FLOOR := 92
# Damaged files of each kind that `make fuzz` reads.
FUZZ ?= 2000
CODE := $(wildcard src tests tools benchmarks examples)
# Test files run in parallel, in the order of tests/conftest.py; a process takes about two gigabytes of memory.
PYTEST := $(BIN)/pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-slow fuzz coverage clients axe check lint types tests dist wheel-check image release-check readme format docs docs-serve clean

help:
	@echo "make quickstart   train, score and merge an adapter on the bundled model (about a minute, offline)"
	@echo "make test         check the code and run the tests, as CI does"
	@echo "make test-slow    check nothing, run all tests, the slow ones included"
	@echo "make fuzz         send thousands of generated requests to every route of a server, read thousands of damaged files, and count them"
	@echo "make coverage     run the tests, report the lines that they do not reach, and fail below $(COVERAGE_FLOOR)%"
	@echo "make check        check lint, format and types without running tests"
	@echo "make format       format the code and apply the linter's fixes"
	@echo "make dist         build the sdist and the wheel in dist/"
	@echo "make wheel-check  install the wheel into an empty environment and run the quickstart (PYTHON=python3.12 selects a Python)"
	@echo "make image        build the container image of the server (needs Docker)"
	@echo "make readme       write the tables of README.md from benchmarks/results.json"
	@echo "make docs         build the documentation site in build/site; a broken link or a missing page is an error"
	@echo "make docs-serve   show the site at http://127.0.0.1:8001 and rebuild it whenever a page changes"
	@echo "make clients      install the clients for tests/test_serve_clients.py in .clients (lm-eval, LangChain, …)"
	@echo "make axe          install axe-core in node_modules for the accessibility tests of the server's page (needs npm)"
	@echo "make clean        remove .venv, build folders and caches"

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

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m "slow or not slow"

# FUZZ_EXAMPLES sets the number of requests of each kind for each route, FUZZ the number of damaged files of each kind.
fuzz: $(VENV)/installed-dev
	FUZZ=$(FUZZ) $(BIN)/pytest -q -s -m slow tests/test_serve_fuzz.py tests/test_file_fuzz.py

coverage: $(VENV)/installed-dev
	$(PYTEST) --cov --cov-report term:skip-covered --cov-report xml --cov-fail-under $(COVERAGE_FLOOR)

# Each client has its own environment, because their requirements exclude one another.
clients: $(VENV)/installed-dev
	for client in langchain:langchain-openai litellm:litellm llm:llm 'lm-eval:lm_eval[api] torch transformers'; do \
	  $(BIN)/python -m venv .clients/$${client%%:*} && \
	  .clients/$${client%%:*}/bin/python -m pip install --quiet $${client#*:} || exit 1; done

# For tests/test_serve_page.py, which checks the server's page for accessibility where this is installed.
axe:
	npm install --no-save --no-package-lock axe-core@4

dist: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

wheel-check: dist
	rm -rf build/wheel-check
	$(PYTHON) -m venv build/wheel-check
	build/wheel-check/$(notdir $(BIN))/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) dist/*.whl
	cd build/wheel-check && $(notdir $(BIN))/tailora quickstart

# Needs Docker.
image:
	docker build --tag tailora .

# Fails unless TAG is v and the version of the package.
release-check: $(VENV)/installed
	@test "$(TAG)" = "v$$($(BIN)/python -c 'import tailora; print(tailora.__version__)')"

readme: $(VENV)/installed-dev
	$(BIN)/python tools/update_readme.py

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
	rm -rf $(VENV) .docs-cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage coverage.xml build dist

$(BIN)/python$(EXE):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with its venv module is needed (Debian: apt install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python$(EXE)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python$(EXE)
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml $(CONSTRAINTS) | $(BIN)/python$(EXE)
	$(PIP_INSTALL) --editable ".[docs]"
	@touch $@
