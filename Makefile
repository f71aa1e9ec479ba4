# The project's commands. `make help` tells what there is; docs in CONTRIBUTING.md.
#
# A fresh Debian with Python >= 3.11, pip and make must do: every target first makes .venv from
# requirements/dev.txt (pinned, with hashes), or brings it up to date when that file has changed.

PYTHON ?= python3
ARGS ?=
SEEDS ?= 1-1000
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Without compiled files every start of the client would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# From within the activated .venv, too, $(PYTHON) is the one outside.
export PATH := $(subst $(CURDIR)/$(BIN):,,$(PATH))
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help
help: ## Say what there is
	@printf 'make TARGET [ARGS="..."] [PYTHON=python3.12]\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

.PHONY: demo
demo: compiled ## Start a cluster of 8 nodes here, run commands on it, show them, end it
	@$(RUN) $(BIN)/python demo/demo.py $(ARGS)

.PHONY: test
test: wheel-environment system-packages ## Run all tests, of the system with the wheel (ARGS="-k frames" for some)
	@$(RUN) $(BIN)/python tests/all.py $(ARGS)

.PHONY: check
check: compiled ## Format, lint, types, layers and unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) $(BIN)/python -m pytest tests/unit -q $(ARGS)

.PHONY: simulate
simulate: compiled ## Run simulated jobs with faults, on all cores (SEEDS=1-1000)
	@$(BIN)/python -m laboratory.simulate --seeds $(SEEDS) $(ARGS)

# Seeds that no other night has had; of what fails, the example or the seed is printed with how to try it again.
FRESH ?= 20000
.PHONY: nightly
nightly: compiled ## Try fresh examples in property tests, and FRESH=20000 fresh seeds in simulations
	@status=0; \
	HYPOTHESIS_PROFILE=nightly $(RUN) $(BIN)/python -m pytest tests/unit -q -m hypothesis --timeout 1800 $(ARGS) || status=$$?; \
	first=$$(( $$(date +%s) * 1000 )); last=$$(( first + $(FRESH) - 1 )); \
	echo "simulations: seeds $$first-$$last"; \
	$(BIN)/python -m laboratory.simulate --seeds $$first-$$last || status=$$?; \
	exit $$status

.PHONY: bench
bench: native-if-possible ## Measure, next to the floor on this machine (ARGS="--help")
	@$(RUN) $(BIN)/python bench/run.py $(ARGS)

.PHONY: bench-copy
bench-copy: native-if-possible ## Measure copying files, next to cat, scp, pdcp and clush (ARGS="--help")
	@$(RUN) $(BIN)/python bench/copying.py $(ARGS)

.PHONY: bench-versions
bench-versions: compiled ## Compare checkouts in turns (ARGS="OLD NEW --nodes 64", each after make native)
	@$(RUN) $(BIN)/python bench/versions.py $(ARGS)

.PHONY: fuzz
fuzz: compiled ## Fuzz what parses bytes from outside (ARGS="frames --seconds 3600 --keep", ARGS="--help")
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/fuzz.txt
	@$(RUN) $(BIN)/python -m laboratory.fuzz.run $(ARGS)

.PHONY: bench-disturbance
bench-disturbance: native-if-possible ## Measure jobs of one user beside attacks of another (root; ARGS="--help")
	@$(RUN) $(BIN)/python bench/disturbance.py $(ARGS)

.PHONY: soak
soak: native-if-possible ## Run 10,000 jobs, and see that daemons keep nothing of them (ARGS="--help")
	@$(RUN) $(BIN)/python bench/soak.py $(ARGS)

.PHONY: reliability
reliability: native-if-possible ## Kill, stop and cut off nodes of real clusters, and measure what follows (root; ARGS="--help")
	@$(RUN) $(BIN)/python bench/reliability.py $(ARGS)

.PHONY: native
native: compiled ## Compile the daemons (a minute or two): what test and bench use
	@$(BIN)/python packaging/native.py

.PHONY: wheel
wheel: native-if-possible ## Build dist/gexec-*.whl for the nodes, with the compiled daemons in it
	@rm -f dist/gexec-*.whl
	@$(BIN)/python -m hatchling build -t wheel

.PHONY: format
format: $(STAMP) ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: $(STAMP) ## Write the manuals' option sections from the table of options
	@$(BIN)/python packaging/manuals.py

.PHONY: lock
lock: $(STAMP) ## Pin the newest dependencies that pyproject.toml allows
	@$(BIN)/python -m pip install --quiet uv
	@for kind in runtime dev fuzz; do \
	  options="--quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade"; \
	  [ $$kind = runtime ] || options="$$options -c requirements/runtime.txt --group $$kind"; \
	  first=$$(head -1 requirements/$$kind.txt); \
	  [ $$kind = fuzz ] || options="$$options pyproject.toml"; \
	  $(BIN)/uv pip compile $$options -o requirements/$$kind.new >/dev/null; \
	  { echo "$$first"; cat requirements/$$kind.new; } > requirements/$$kind.txt; \
	  rm requirements/$$kind.new; \
	done

.PHONY: clean
clean: ## Remove .venv and everything that was made
	rm -rf $(VENV) build dist src/gexec/_native bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# -- what the targets above stand on ----------------------------------------------------------

.PHONY: compiled
compiled: $(STAMP)
	@$(BIN)/python -m compileall -q src

# Status 3: there is no C compiler, say, and a sentence on stderr said so. Interpreted daemons do the same.
.PHONY: native-if-possible
native-if-possible: compiled
	@$(BIN)/python packaging/native.py || [ $$? = 3 ]

# Where system tests run: what a node has, with the wheel of the sources as they are.
.PHONY: wheel-environment
wheel-environment: native-if-possible
	@$(BIN)/python packaging/wheel_environment.py $(PYTHON)

# scripts/* are copied into the venv by the install, so a change of them installs again.
$(STAMP): requirements/dev.txt pyproject.toml $(wildcard scripts/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is not Python 3.11 or newer: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV) || { \
	    echo "make: $(PYTHON) cannot make a virtual environment: install python3-venv (Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	fi
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then pip="$(PYTHON) -m pip --python $(BIN)/python"; \
	else echo "make: neither pip nor python3-venv is here: install one (Debian: apt-get install python3-venv)" >&2; exit 1; fi; \
	$$pip install --quiet --require-hashes --only-binary :all: -r requirements/dev.txt; \
	$$pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

# What tests call beside Python. Where one is missing and cannot be installed here, the tests that
# need it skip and say why.
.PHONY: system-packages
system-packages:
	@missing=; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	PATH="$$PATH:/usr/sbin"; \
	command -v gmond >/dev/null || missing="$$missing ganglia-monitor"; \
	command -v ssh >/dev/null || missing="$$missing openssh-client"; \
	command -v sshd >/dev/null || missing="$$missing openssh-server"; \
	ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$$missing libfaketime"; \
	if [ -n "$$missing" ] && [ -d /run/systemd/system ]; then \
	  echo "make: tests that need$$missing skip: not installed here, since that would start services" >&2; \
	elif [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { timeout 300 apt-get -qq update && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq install -y --no-install-recommends $$missing; } \
	    >/dev/null </dev/null || echo "make: could not install$$missing: tests that need it skip" >&2; \
	fi
