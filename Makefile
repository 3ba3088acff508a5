# make report | serve | test | test-all | lab | student | clean; `make` alone explains them.
# Needs GNU make and Python 3.11 or newer. The work is done by the command `hamsynth`.
PYTHON ?= python3
DATA = phantom
PROFILE = smoke
RUN =
SEED = 0
SEEDS =
ARMS =
CORES = all
MEMORY =
SLURM =
SKIP_BROKEN =
WEIGHTS =
EXTERNAL =
UNTIL =
PORT = 8000
OUT = student

# An active conda environment made from environment.yml is used as it is; otherwise .venv is made.
BIN = $(if $(filter hamsynth,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)/bin,.venv/bin)
VENV_STAMP = $(if $(filter .venv/bin,$(BIN)),.venv/ready)
PY = "$(BIN)/python"
HAMSYNTH = $(PY) -m hamsynth_utils.cli
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest tests --numprocesses auto --maxprocesses 4 --dist loadfile --max-worker-restart 0

# Handed to the shell as they are, since make would split a path at its spaces.
export DATA PROFILE RUN SEED SEEDS ARMS WEIGHTS EXTERNAL UNTIL PORT OUT CORES MEMORY
export PYTHONUTF8 = 1
RUN_OPTIONS = --data "$$DATA" --profile "$$PROFILE" --run "$$RUN"
REPORT_OPTIONS = --seed "$$SEED" --seeds "$$SEEDS" --arms "$$ARMS" --weights "$$WEIGHTS" --external "$$EXTERNAL" \
	--cores "$$CORES" --memory "$$MEMORY" --until "$$UNTIL" $(if $(filter-out 0 False,$(SLURM)),--slurm) \
	$(if $(filter-out 0 False,$(SKIP_BROKEN)),--skip-broken)

.PHONY: help report serve test test-all lab student clean
help:
	@echo 'make report    run the notebooks and build the HTML report'
	@echo '               DATA=phantom|<folder of HAM10000>  PROFILE=smoke|cpu|cpu128|long|paper|gpu|<file>.yaml  RUN=<name>'
	@echo '               SEED=0  SEEDS=0,1,2  ARMS=real,vae  WEIGHTS=<folder>  SKIP_BROKEN=1'
	@echo '               EXTERNAL=<folder of an external test set>  CORES=all  MEMORY=<MB>  SLURM=1  UNTIL=<chapter>'
	@echo 'make serve     show a finished report in a browser, where its networks run: the same options, PORT=8000'
	@echo 'make test      check the code and run the tests'
	@echo 'make test-all  and the slow tests, too'
	@echo 'make lab       open the notebooks in JupyterLab'
	@echo 'make student   write the notebooks without solutions, OUT=<folder>'
	@echo 'make clean     remove .venv and caches; runs/ is kept'
	@echo 'All but the tests is also a command: .venv/bin/hamsynth --help'

report: $(VENV_STAMP)
	@$(HAMSYNTH) report $(RUN_OPTIONS) $(REPORT_OPTIONS)

serve: $(VENV_STAMP)
	@exec $(HAMSYNTH) serve $(RUN_OPTIONS) --port "$$PORT"

lab: $(VENV_STAMP)
	@exec $(HAMSYNTH) lab

student: $(VENV_STAMP)
	@$(HAMSYNTH) student --out "$$OUT"

test: MARKED = -m "not slow"
test test-all: $(VENV_STAMP)
	$(PY) -m ruff check
	$(PY) -m mypy
	$(PYTEST) $(MARKED)

clean:
	rm -rf .venv dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	@if [ -d runs ]; then echo 'runs/ is kept, for what is in it may have taken hours: rm -r runs'; fi

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'HamSynth needs Python 3.11 or newer, and $(PYTHON) is not: name another, as in'; \
		echo 'make $(or $(firstword $(MAKECMDGOALS)),report) PYTHON=python3.12'; exit 1; }
	@echo 'setting up .venv, a few minutes'
	@$(PYTHON) -m venv .venv || { echo 'on Debian and Ubuntu, apt install python3-venv may be missing'; exit 1; }
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@
