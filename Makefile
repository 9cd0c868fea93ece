# make demo      installs into .venv, fetches a model and data, runs three benchmarks, writes a report
# make test      installs into .venv, lints, type-checks and tests (a few minutes); TESTS= also runs the slow ones
PYTHON ?= $(shell command -v python3.11 || echo python3)
MODEL ?= qwen2.5-coder-0.5b-instruct
TASKS ?= humaneval-chat,gsm8k-chat,mmlu
LIMIT ?= 40
TESTS ?= -m 'not slow'
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo install check test
.DEFAULT_GOAL := demo

demo: install
	$(BIN)/harness run --task $(TASKS) --model $(MODEL) --limit $(LIMIT)

install: $(VENV)/.installed

# torch by itself first: with it in place nothing else pulls in another build
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest $(TESTS)
