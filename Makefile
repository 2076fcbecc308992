# Every target fills .venv by itself; a second run is fast, because the stamps only age with pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
FULL := .venv/.full-installed

.DEFAULT_GOAL := help
.PHONY: help demo test style quality

help:  ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(RUNTIME)  ## start the app; options: MODELS=folder NAMESPACE=name PORT=7860
	$(BIN)/python app.py $(if $(MODELS),--models "$(MODELS)") $(if $(NAMESPACE),--namespace "$(NAMESPACE)") $(if $(PORT),--port $(PORT))

test: $(FULL)  ## run the tests: CPU, offline
	$(BIN)/python -m pytest -q

style: $(FULL)  ## repair formatting and what the linter can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(FULL)  ## check formatting and lint, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# pip comes last when an environment is made, so its presence means that the environment is whole.
$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

$(RUNTIME): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(FULL): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -q -e '.[train,dev]'
	@touch $@ $(RUNTIME)
