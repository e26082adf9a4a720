.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := $(VENV)/.installed

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## the environment in .venv: 2 to 3 minutes, 5 GB

$(INSTALLED): pyproject.toml constraints.txt $(wildcard resexp/models/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check 'pip>=25.1' # the first that knows dependency groups
	$(BIN)/pip install --quiet --quiet -c constraints.txt -e . --group dev
	@touch $@

demo: install ## plain nets degrade, residual nets do not: trains, draws and judges in minutes
	$(BIN)/resexp study degradation

test: install ## the quick tests: 5 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not images and not slurm and not browser and not faults'

test-all: install ## all tests but those with faults, real image files, a real SLURM or a browser: 15 minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not images and not slurm and not browser and not faults'

test-faults: install ## a disk that fails, kills and power cuts at hundreds of points of a run: 5 minutes
	$(BIN)/python -m pytest -n 2 -m faults

test-images: install ## the tests on real image files under RESEXP_DATA
	$(BIN)/python -m pytest -n 2 --dist worksteal -m images

test-slurm: install ## the tests on a real SLURM of this machine, as root, with slurm-wlm and munge
	$(BIN)/python -m pytest -m slurm

test-browser: install ## the tests of the page in a browser: Debian's chromium
	$(BIN)/python -m pytest -m browser

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

smoke: install ## one short run: 10 to 20 seconds; kill it, repeat it, watch it resume
	$(BIN)/resexp train protocol=smoke

figures: install ## redraw all figures and write the pages of results; on a fresh clone the embedded study runs first
	@ls -d outputs/runs/*-digits-digits-* >/dev/null 2>&1 || $(BIN)/resexp study degradation
	$(BIN)/resexp figures
	$(BIN)/python scripts/write_pages.py

report: install ## one HTML page of all that has been run: outputs/report.html
	$(BIN)/resexp report

tensorboard: install ## TensorBoard on outputs/, with the reference runs
	$(BIN)/python scripts/write_events.py outputs
	$(BIN)/tensorboard --logdir outputs

.PHONY: help install demo test test-all test-faults test-images test-slurm test-browser lint smoke figures report tensorboard
