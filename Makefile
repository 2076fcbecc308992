# Every target fills .venv by itself; a second run is fast, because the stamps only age with pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
FULL := .venv/.full-installed
option = $(if $($(2)),--$(1) "$($(2))")

.DEFAULT_GOAL := help
.PHONY: help demo test style quality bundle torch

help:  ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(RUNTIME)  ## serve the app; options: MODELS=folder NAMESPACE=name BACKBONE_WEIGHTS=file EXAMPLES=folder TEST_FOLDER=folder PORT=7860 TORCH_INDEX=url
	@$(BIN)/python app.py $(call option,models,MODELS) $(call option,namespace,NAMESPACE) \
	    $(call option,backbone-weights,BACKBONE_WEIGHTS) $(call option,examples,EXAMPLES) \
	    $(call option,test-folder,TEST_FOLDER) $(call option,port,PORT)

test: $(FULL)  ## run the tests: CPU, offline
	$(BIN)/python -m pytest -q

style: $(FULL)  ## repair formatting and what the linter can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(FULL)  ## check formatting and lint, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bundle: $(FULL)  ## train the bundled models again into runs/bundle, then copy them into the package
	$(BIN)/python -m training.parts examples --examples
	$(BIN)/python training/train.py --data-root parts: --backbone compactnet.distilled_in1k --methods simplenet \
	    --epochs 60 --holdout 0.5 --output runs/bundle
	$(BIN)/python training/train.py --data-root parts: --backbone compactnet.distilled_in1k --methods glass \
	    --epochs 24 --holdout 0.5 --output runs/bundle
	$(BIN)/python training/train.py --data-root parts: --backbone compactnet.distilled_in1k --methods hybrid \
	    --holdout 0.5 --folds 0 --output runs/bundle
	$(BIN)/python -m training.publishing bundle runs/bundle

# pip comes last when an environment is made, so its presence means that the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv

# A torch that is already there is replaced, if it came from another index.
torch: | $(BIN)/pip
	@$(if $(TORCH_INDEX),sh install.sh torch)

$(RUNTIME): pyproject.toml | torch
	@sh install.sh app,train
	@touch $@

$(FULL): pyproject.toml | torch
	@sh install.sh dev
	@touch $@ $(RUNTIME)
