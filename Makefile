# The commands people and CI both use. Each sets up .venv by itself; `make` alone lists them.
#
# Variables: PYTHON (interpreter to build .venv with), PIP_ARGS (extra arguments of pip install, for
# instance --extra-index-url with PyTorch's CPU wheels), ARGS (arguments of the program or of pytest),
# CAMERAS (of make demo: a clip, an rtsp:// address or a cameras.toml),
# LOCK (the exact versions to install; empty: the newest that the lists allow), SHARED (a folder that is no
# part of the repository: photographs in data/; everything works without).
SHELL := /bin/sh
VENV ?= .venv
BIN = $(VENV)/bin
PIP_ARGS ?=
ARGS ?=
LOCK ?= requirements/everything.lock
SHARED ?= ../shared
PINNED = $(if $(LOCK),-c $(LOCK))
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)
PIP_FAILED = { echo "pip could not install the requirements: see its message above. It needs the network and" \
	"up to 8 GB of disk; the same command goes on where it stopped." >&2; exit 1; }
RUN_DONE = $(VENV)/.requirements-installed
DEV_DONE = $(VENV)/.requirements-dev-installed
# A .venv whose interpreter is gone (moved, or Python was upgraded) is made anew, so its stamps go first.
$(shell test -x $(BIN)/python || rm -f $(RUN_DONE) $(DEV_DONE))
FAST = not slow and not browser and not compose and not bare

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST) | sort

# --- the two commands of the README -----------------------------------------------------------------

.PHONY: demo test
demo: $(RUN_DONE) ## tracker, API and page on this machine; CAMERAS=clip.mp4 is watched as if it were a camera
	@$(BIN)/python demo.py

# A process per core, at most four (each takes up to 2 GB); a file's tests stay together, with their servers.
test: $(DEV_DONE) ## the tests that need neither browser, containers nor minutes
	$(BIN)/python -m pytest -m "$(FAST)" -n logical --maxprocesses 4 --dist loadfile $(ARGS)

# --- more tests -------------------------------------------------------------------------------------

.PHONY: test-browser test-slow test-bare test-compose check
test-browser: $(DEV_DONE) ## the page in a real headless Chromium (Debian: chromium chromium-driver)
	$(BIN)/python -m pytest -m "browser and not compose" $(ARGS)

.PHONY: screenshot
screenshot: $(DEV_DONE) ## take the README's picture of the page; make demo must be running
	$(BIN)/python docs/screenshot.py "http://127.0.0.1:$${WEB_PORT:-8501}" docs/screenshot.png

test-slow: $(DEV_DONE) ## tests that train the real network: minutes
	$(BIN)/python -m pytest -m slow -n logical --maxprocesses 2 --dist worksteal $(ARGS)

test-bare: $(DEV_DONE) ## each image's requirement list by itself does its image's job; minutes, up to 6 GB
	$(BIN)/python -m pytest -m bare $(ARGS)

test-compose: $(DEV_DONE) ## builds and starts the containers; needs a Docker engine
	$(BIN)/python -m pytest -m compose $(ARGS)

check: lint types test ## what a change must pass

# --- code -------------------------------------------------------------------------------------------

.PHONY: format lint types graph
format: $(DEV_DONE) ## rewrite the code in the project's layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(DEV_DONE) ## ruff, hadolint, shellcheck, and the schemas of compose and Kubernetes files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile.api Dockerfile.tracker Dockerfile.watch Dockerfile.web
	$(BIN)/shellcheck bench/card_minutes.sh
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec *.compose.yaml deploy/gpu.*.compose.yaml
	sed 's/!reset//' deploy/scale.compose.yaml | $(BIN)/check-jsonschema --builtin-schema vendor.compose-spec --default-filetype yaml -
	$(BIN)/kubernetes-validate --strict --quiet --no-warn deploy/kubernetes/*.yaml deploy/kubernetes/*/*.yaml

graph: $(RUN_DONE) ## draw the import graph into both READMEs
	$(BIN)/python docs/import_graph.py

types: $(DEV_DONE) ## mypy, strict
	$(BIN)/mypy

# --- model ------------------------------------------------------------------------------------------

.PHONY: train train-smoke evaluate compare
train: $(RUN_DONE) ## train.py with ARGS="--data FOLDER --preset best ..."; needs a tracker (make demo)
	$(BIN)/python train.py $(ARGS)

train-smoke: $(RUN_DONE) ## a few minutes on two cores, on pictures that the project draws itself
	@test -d runs/smoke-data || $(BIN)/python dataset.py synth runs/smoke-data
	@mkdir -p runs/smoke
	MLFLOW_TRACKING_URI=sqlite:///runs/smoke/mlflow.db $(BIN)/python train.py --preset smoke \
		--data runs/smoke-data --output runs/smoke $(ARGS)

compare: $(RUN_DONE) ## the last training runs side by side; needs a tracker (make demo)
	@$(BIN)/python registry.py compare $(ARGS)

# Without ARGS: the starter on the card's two folders of photographs, where they are.
PHOTOS = $(wildcard $(SHARED)/data/weapons $(SHARED)/data/lookalikes)
evaluate: $(RUN_DONE) ## evaluate.py with ARGS="--data FOLDER ..."; without: the model card's figures
	$(BIN)/python evaluate.py $(or $(ARGS),$(if $(PHOTOS),--model weights/starter --data $(PHOTOS)))

# --- setting up -------------------------------------------------------------------------------------

.PHONY: venv lock clean
venv: $(DEV_DONE) ## .venv with everything, tests and checks included

$(BIN)/python:
	@sh deploy/make-venv.sh "$(VENV)" $(PYTHON)

# A stamp file says that these very requirements are installed; pip runs again only when they change.
$(RUN_DONE): requirements.txt requirements/web.txt requirements/watch.txt requirements/train.txt requirements/api-torch.txt requirements/api.txt requirements/detecto.txt $(LOCK) | $(BIN)/python
	@echo "Installing what the project runs on (PyTorch is large; only the first time)"
	@$(PIP_INSTALL) -r requirements.txt $(PINNED) || $(PIP_FAILED)
	@$(PIP_INSTALL) -q --no-deps -r requirements/detecto.txt || $(PIP_FAILED)
	@touch $@

$(DEV_DONE): requirements/dev.txt requirements/cluster.txt $(RUN_DONE)
	@echo "Installing what the tests and checks need"
	@$(PIP_INSTALL) -q -r requirements/dev.txt $(PINNED) || $(PIP_FAILED)
	@touch $@

lock: | $(BIN)/python ## bring the locks in line with the requirement lists; ARGS=--upgrade: the newest versions
	@$(PIP_INSTALL) -q "pip-tools>=7.5,<8" || $(PIP_FAILED)
	$(BIN)/python deploy/lock.py $(ARGS)

clean: ## remove .venv and caches; runs, models and the tracker's data stay
	rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
