# `make` alone says what there is. Variables: CPU=1 (no GPU), LOCKED=1 (packages checked by hash), SLOW=1, PYTHON,
# TOOL=venv|uv|conda|mamba|micromamba.
PYTHON ?= python3
MAKE_ENVS = $(PYTHON) envs/make_envs.py $(if $(CPU),--cpu) $(if $(TOOL),--tool $(TOOL))
BIN = .venvs/pytorch/bin

.DEFAULT_GOAL := help
.PHONY: help envs demo test lint

help: ## say what the targets are
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

envs: ## make .venvs/pytorch and .venvs/tensorflow, where missing or out of date (CPU=1 without a GPU)
	@$(MAKE_ENVS) $(if $(LOCKED),--locked)

demo: envs ## train and sample in both frameworks on simulated lenses, side by side
	@$(BIN)/python -m eval demo

test: ## run every test in both environments (SLOW=1: the slow ones too)
	@$(MAKE_ENVS) --test
	@$(BIN)/python -m tests.run_tests $(if $(SLOW),--slow)

lint: ## check format, lint and types
	@$(MAKE_ENVS) --test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
