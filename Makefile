PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint docs clean

train: .venv/installed  ## train the default model on a 1-D Gaussian, in a minute
	$(BIN)/python train.py

test: .venv/installed  ## all tests; set GAN_LIGHTNING_DATA to a folder with MNIST/raw to run those that need it
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## the website, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove the environment and the runs
	rm -rf .venv outputs multirun site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv  # takes half of pip's time
	$(BIN)/uv pip install --quiet --native-tls --compile-bytecode --python $(BIN)/python \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
