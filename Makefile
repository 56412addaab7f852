# Slipstream: `make demo` and `make test` do all the set-up and then their work; a second call costs no set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV := .uv/bin/uv
PY := .venv/bin/python
ORACLE := .venv-oracle/bin/python
SOURCES := pyproject.toml constraints.txt $(wildcard runtime_ext/*.pyx runtime_ext/*.pxd runtime_ext/kernels/*.[ch] runtime_ext/kernels/llm/*.[ch])
FUZZED := $(filter-out mutate run test_corpus,$(basename $(notdir $(wildcard tests/fuzz/*.py))))
CHECKED := -std=gnu11 -g1 -O1 -ffp-contract=off -Wall -Wextra -Wno-sign-conversion -Werror -fsanitize=address,undefined \
	-fno-sanitize-recover=all
CODE := core transports skills runtime_ext tui slipstream tests examples

.PHONY: help demo picture test check bench fuzz oracle format clean

help: ## what there is to type
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: .stamps/dev ## a phone, a car and a hub find each other and run a trip, with nothing installed beforehand
	@.venv/bin/slip demo

test: .stamps/dev ## every test
	@$(PY) -m pytest $(ARGS)

check: .stamps/dev ## format, lint, types, stubs, and the C kernels under sanitizers
	@.venv/bin/ruff format --check --quiet $(CODE)
	@.venv/bin/ruff check --quiet $(CODE)
	@.venv/bin/mypy --no-error-summary
	@$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml slipstream.runtime_ext.scheduler slipstream.runtime_ext.frames \
		slipstream.runtime_ext.model
	@mkdir -p build && gcc $(CHECKED) -Wconversion -Iruntime_ext tests/kernels/schedule.c \
		runtime_ext/kernels/*.c -lm -o build/schedule-check && build/schedule-check >/dev/null
	@gcc $(CHECKED) -Iruntime_ext/kernels/llm tests/kernels/llm.c runtime_ext/kernels/llm/*.c -lm -lpthread \
		-o build/llm-check && build/llm-check >/dev/null
	@echo "check: ok"

bench: .stamps/bench ## our figures beside the floor and the peers, from one run
	@for name in link schedule daemon mesh kill policy trust pair watch monitor; do .venv/bin/slip bench $$name || exit 1; done

fuzz: .stamps/fuzz ## what strangers may send, made up with an eye on what our code does with it: SECONDS=60 each
	@for name in $(FUZZED); do $(PY) tests/fuzz/run.py $$name --seconds $(or $(SECONDS),60) || exit 1; done

oracle: .stamps/oracle ## our figures beside those of transformers, llama.cpp and tokenizers; the C cores on an emulated ARM
	@PYTHONPATH=. $(ORACLE) -m pytest -s -rs tests/oracle tests/kernels tests/runtime_ext/test_tokens.py $(ARGS)

picture: .stamps/dev ## the README's picture, from a real run of the demo
	@$(PY) -m slipstream.picture tui/picture.svg

format: .stamps/dev ## put the code into its form
	@.venv/bin/ruff check --quiet --fix $(CODE) || true
	@.venv/bin/ruff format --quiet $(CODE)

clean: ## remove everything that was built
	rm -rf .venv .venv-oracle .uv .stamps build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find runtime_ext -name '*.so' -delete

$(UV):
	@echo "setting up: uv ..."
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv uv

.stamps/dev: $(SOURCES) | $(UV)
	@echo "setting up: environment and extensions (about 20 s) ..."
	@test -x $(PY) || $(UV) venv --quiet --seed --python $(PYTHON) .venv
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --compile-bytecode -e . --group dev -c constraints.txt -b constraints.txt
	@mkdir -p .stamps && touch $@

.stamps/bench: .stamps/dev
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --group bench -c constraints.txt
	@mkdir -p .stamps && touch $@

.stamps/fuzz: .stamps/dev
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --group fuzz -c constraints.txt
	@mkdir -p .stamps && touch $@

# pip and not uv: its settings say where this machine has torch without CUDA
.stamps/oracle: .stamps/dev
	@echo "setting up: torch, transformers, llama.cpp from source (several minutes) ..."
	@test -x $(ORACLE) || $(UV) venv --quiet --seed --python $(PY) .venv-oracle
	@$(ORACLE) -m pip install --quiet --disable-pip-version-check --group oracle
	@mkdir -p .stamps && touch $@
