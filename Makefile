.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := $(VENV)/.installed

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## the environment in .venv: 2 to 3 minutes, 5 GB

$(INSTALLED): pyproject.toml setup.py constraints.txt $(wildcard resexp/models/*.[ch])
	@echo "Installing into $(VENV): 2 to 3 minutes, 5 GB, most of it torch with its CUDA libraries."
	@echo "For a smaller one without a GPU: $(PYTHON) -m venv $(VENV), put torch's CPU build there, as PyTorch's own"
	@echo "installation page says, and repeat; what is there already is taken."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check 'pip>=25.1' # the first that knows dependency groups
	$(BIN)/pip install --quiet --quiet -c constraints.txt -e . --group dev
	@touch $@

demo: install ## plain nets degrade, residual nets do not: trains, draws and judges in minutes
	@echo "Training twelve nets on 8x8 digits, one per core at a time; Ctrl-C saves them, and make demo goes on."
	$(BIN)/resexp study degradation
	@echo
	@echo "Next, with $(BIN) before each or in your PATH:"
	@echo "  resexp train model=plain56                                   one net, and how it fails to learn"
	@echo "  resexp analyze lesion degradation --nets resnet56,plain20    which layers a trained net can lose"
	@echo "  resexp study degradation seed=0,1,2                          three seeds: intervals and verdicts"

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

wheels: install ## in dist/ all that an installation without a network needs: 3 GB
	rm -rf dist build # a build folder keeps what was removed since
	$(BIN)/pip wheel --quiet --disable-pip-version-check -c constraints.txt -w dist .

CONTAINERS ?= podman
image: wheels ## a container from these wheels, by podman, or CONTAINERS=docker
	$(CONTAINERS) build --network none -f Containerfile -t resexp \
	  --build-arg PYTHON=$$($(BIN)/python -c 'import sys; print(*sys.version_info[:2], sep=".")') .

.PHONY: help install demo test test-all test-faults test-images test-slurm test-browser lint smoke figures report tensorboard wheels image
