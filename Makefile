# Everything here starts from Python >= 3.11 and make alone; the rest is set up in .venv.
#
#   PYTHON=   the interpreter for .venv (default: the newest of 3.11 to 3.13 that works)
#   TIME=     how many seconds make fuzz goes on for (default: 60)
#   WORKERS=  how many processes run tests (default: one more than there are cores, 4 at most)
#   ARGS=     passed on to what the target runs: make test ARGS="--no-cov tests/auth"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/sh

PYTHON ?=
ARGS ?=
# Many tests wait for a moment now and then.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 3 ? n + 1 : 4)))
TIME ?= 60

UV_VERSION := 0.13.9

venv := .venv
bin := $(venv)/bin
pip := $(bin)/python -m pip --disable-pip-version-check --no-input -qq
install := $(pip) install --require-hashes
say := printf '%s\n' >&2

# A stamp's name holds a checksum of what was installed, so that a changed lock file is installed
# anew and an unchanged one never is, whatever the files' dates say. The place belongs to it: a
# copied environment still points to where it came from.
checksum = $(shell { echo '$(CURDIR)' '$(PYTHON)'; cat $(1); } 2>/dev/null | cksum | cut -d ' ' -f 1)
base_stamp := $(venv)/.base-$(call checksum,requirements.lock requirements-build.lock)
run_stamp := $(base_stamp)-project-$(call checksum,pyproject.toml)
dev_stamp := $(base_stamp)-dev-$(call checksum,requirements-dev.lock)
bench_lock := $(wildcard bench/requirements.lock)
bench_stamp := $(base_stamp)-bench-$(call checksum,$(bench_lock) /dev/null)
fuzz_lock := tests/fuzz/requirements.lock
fuzz_stamp := $(base_stamp)-fuzz-$(call checksum,$(fuzz_lock))

python_code := $(wildcard sidecar tests bench scripts)

.PHONY: help
help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(run_stamp) ## Run the demonstration: a store, two upstreams and the sidecar
	@$(bin)/sidecar demo $(ARGS)

.PHONY: test
test: $(run_stamp) $(dev_stamp) ## Run the tests and measure their coverage
	$(bin)/python -m pytest --cov --numprocesses=$(WORKERS) --dist=loadfile $(ARGS)

# TIME= says for how many seconds; ARGS="--keep" adds what was come upon to the corpus.
.PHONY: fuzz
fuzz: $(run_stamp) $(dev_stamp) $(fuzz_stamp) ## Feed the readers of HTTP what a fuzzer makes up
	@$(bin)/python -m tests.fuzz --seconds $(TIME) $(ARGS)

.PHONY: check
check: $(run_stamp) $(dev_stamp) ## Check format, lint, types and the layers' imports
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy $(python_code)
	$(bin)/lint-imports --no-logo

.PHONY: format
format: $(run_stamp) $(dev_stamp) ## Format the code and mend what ruff can mend
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

.PHONY: bench
bench: $(run_stamp) $(bench_stamp) ## Measure the sidecar beside its peers
	@$(bin)/python -m bench $(ARGS)

.PHONY: soak
soak: $(run_stamp) $(dev_stamp) ## Run the sidecar among bad clients, upstreams and faults
	@$(bin)/python -m tests.soak $(ARGS)

# Pins that still satisfy pyproject.toml stay; LOCK=--upgrade takes the newest of all.
.PHONY: lock
lock: uv := build/uv-$(UV_VERSION)
lock: compile = $(uv)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock' $(LOCK)
lock: ## Write the lock files anew
	@test -x $(uv)/bin/uv || { $(find_python) && "$$python" -m venv --clear $(uv) \
		&& $(uv)/bin/python -m pip --disable-pip-version-check -qq install uv==$(UV_VERSION); }
	$(compile) pyproject.toml --all-extras -o requirements.lock
	$(compile) --group build -c requirements.lock -o requirements-build.lock
	$(compile) pyproject.toml --all-extras --group dev -c requirements.lock -c requirements-build.lock \
		-o requirements-dev.lock
	$(if $(wildcard bench/requirements.in),$(compile) bench/requirements.in \
		-c requirements-dev.lock -o bench/requirements.lock)
	$(compile) tests/fuzz/requirements.in -c requirements-dev.lock -o $(fuzz_lock)

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(venv) bench/.work build dist .coverage .coverage.* .demo .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find $(python_code) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: python
python: ## Show the interpreter that .venv is made with
	@$(find_python); printf '%s\n' "$$python"

# Sets $$python to an interpreter that can make a virtual environment, or says what is missing.
# Each candidate is run: a version manager's name for a version that is not chosen only fails.
define find_python
for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3) ''; do \
	test -n "$$python" || { $(say) \
		'No Python >= 3.11 with venv and ensurepip found; name one: make PYTHON=/path/to/python3' \
		; exit 1; }; \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
		2>/dev/null && break; \
done
endef

$(base_stamp): | requirements.lock requirements-build.lock
	@$(find_python); \
	$(say) "Setting up $(venv) with $$("$$python" --version) ..."; \
	"$$python" -m venv --clear $(venv)
	@$(install) -r requirements.lock -r requirements-build.lock
	@touch $@

$(run_stamp): | $(base_stamp)
	@$(pip) install --no-deps --no-build-isolation --editable .
	@rm -f $(base_stamp)-project-* && touch $@

$(dev_stamp): | $(base_stamp)
	@$(say) 'Installing the tools for tests and checks ...'
	@$(install) -r requirements-dev.lock
	@rm -f $(base_stamp)-dev-* && touch $@

$(fuzz_stamp): | $(base_stamp)
	@$(say) 'Installing the fuzzer ...'
	@$(install) -r $(fuzz_lock)
	@rm -f $(base_stamp)-fuzz-* && touch $@

$(bench_stamp): | $(base_stamp)
	@$(say) 'Installing the peers to measure ...'
	@test -z '$(bench_lock)' || $(install) -r $(bench_lock)
	@rm -f $(base_stamp)-bench-* && touch $@
