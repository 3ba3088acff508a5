# make report | serve | test | lab | student | clean; `make` alone explains them. Needs GNU make and Python 3.11 or newer.
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
PORT = 8000
OUT = student

# An active conda environment made from environment.yml is used as it is; otherwise .venv is made.
BIN = $(if $(filter hamsynth,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)/bin,.venv/bin)
READY = $(if $(filter .venv/bin,$(BIN)),.venv/ready)
PY = "$(abspath $(BIN))/python"

# Handed to the shell as they are, since make would split a path at its spaces.
export DATA PROFILE RUN SEED SEEDS ARMS SKIP_BROKEN WEIGHTS EXTERNAL PORT OUT
# Kernels are those of this environment, whatever else the user has installed.
unexport JUPYTER_PATH
export JUPYTER_PREFER_ENV_PATH = 1

.PHONY: help report serve test lab student clean
help:
	@echo 'make report   run the notebooks and build the HTML report'
	@echo '              DATA=phantom|<folder of HAM10000>  PROFILE=smoke|cpu|paper|<file>.yaml  RUN=<name>'
	@echo '              SEED=0  SEEDS=0,1,2  ARMS=real,vae  WEIGHTS=<folder>  SKIP_BROKEN=1'
	@echo '              EXTERNAL=<folder of an external test set>  CORES=all  MEMORY=<MB>  SLURM=1'
	@echo 'make serve    show a finished report in a browser, where its networks run: the same options, PORT=8000'
	@echo 'make test     check the code and run all tests'
	@echo 'make lab      open the notebooks in JupyterLab'
	@echo 'make student  write the notebooks without solutions, OUT=<folder>'
	@echo 'make clean    remove .venv and caches; runs/ is kept'

# Jobs share what this machine has, or the cluster's scheduler places them. Its profile says all the rest.
FREE_MEMORY = $$($(PY) -c 'import psutil; print(psutil.virtual_memory().available >> 20)')
HERE = --cores $(CORES) --resources mem_mb=$(or $(MEMORY),$(FREE_MEMORY)) --quiet all
PLACE = $(if $(SLURM),--workflow-profile "$(CURDIR)/profiles/slurm",$(HERE))

absolute = case "$$$1" in /*) ;; "~/"*) $1="$$HOME/$${$1\#"~/"}";; *) $1="$$PWD/$$$1";; esac
# The run's name and folder, of the options.
find_run = if [ "$$DATA" != phantom ]; then $(call absolute,DATA); fi; \
	HAMSYNTH_RUNS="$${HAMSYNTH_RUNS:-runs}"; $(call absolute,HAMSYNTH_RUNS); \
	if [ -z "$$RUN" ]; then RUN="$$(basename "$$DATA")-$$(basename "$${PROFILE%.y*ml}")"; fi; \
	folder="$$HAMSYNTH_RUNS/$$RUN"

report: $(READY)
	@start=$$(date +%s); \
	case "$$PROFILE" in *.yaml|*.yml) $(call absolute,PROFILE);; esac; \
	if [ -n "$$WEIGHTS" ]; then $(call absolute,WEIGHTS); export HAMSYNTH_WEIGHTS="$$WEIGHTS"; fi; \
	case "$$EXTERNAL" in ""|phantom) ;; *) $(call absolute,EXTERNAL);; esac; \
	$(find_run); export DATA PROFILE RUN HAMSYNTH_RUNS; \
	$(PY) -m hamsynth_utils.experiment.run --name "$$RUN" --profile "$$PROFILE" --data "$$DATA" --seed "$$SEED" \
		--seeds "$$SEEDS" --arms "$$ARMS" --external "$$EXTERNAL" && \
	$(PY) -c 'import json, os; print(json.dumps({key.lower(): os.environ[key] for key in \
		("DATA", "PROFILE", "RUN", "SEED", "SKIP_BROKEN", "EXTERNAL")}))' > "$$folder/.road.json" && \
	$(PY) -m snakemake --directory "$$folder" --configfile "$$folder/.road.json" --nolock --rerun-incomplete \
		--rerun-triggers mtime params input --scheduler greedy $(PLACE) && \
	$(PY) -m hamsynth_utils.report.build "$$folder" --minutes --since $$start

serve: $(READY)
	@$(find_run); \
	if [ ! -f "$$folder/site/index.html" ]; then \
		echo "there is no report in $$folder/site: make it with make report and the same options"; exit 1; fi; \
	echo "http://127.0.0.1:$$PORT/ until Ctrl-C"; \
	exec $(PY) -m http.server "$$PORT" --bind 127.0.0.1 --directory "$$folder/site"

test: $(READY)
	$(PY) -m ruff check
	$(PY) -m mypy
	OMP_NUM_THREADS=1 $(PY) -m pytest tests --numprocesses auto --maxprocesses 4 --dist loadfile --max-worker-restart 0

lab: $(READY)
	$(PY) -m jupyterlab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

student: $(READY)
	@$(PY) -m hamsynth_utils.report.student --out "$$OUT"

clean:
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	@if [ -d runs ]; then echo 'runs/ is kept, for what is in it may have taken hours: rm -r runs'; fi

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'HamSynth needs Python 3.11 or newer, and $(PYTHON) is not: name another, as in'; \
		echo 'make $(or $(firstword $(MAKECMDGOALS)),report) PYTHON=python3.12'; exit 1; }
	@echo 'setting up .venv, a few minutes'
	@$(PYTHON) -m venv .venv || { echo 'on Debian and Ubuntu, apt install python3-venv may be missing'; exit 1; }
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
