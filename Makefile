# `make train` and `make test` are all a newcomer needs; both set up .venv first. README.md shows the plain commands behind them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Torch's threads soon sleep while they wait instead of spinning, which on a busy machine is several times faster.
export GOMP_SPINCOUNT ?= 20000

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: help train test test-all lint format docs pictures benchmark gpu-check clean

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.experiments-installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -e '.[experiments]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -e '.[all,dev]'
	@touch $@ $(VENV)/.experiments-installed

train: $(VENV)/.experiments-installed  ## Train on ten labels of each digit, without mixing and with Puzzle Mix; another seed: make train ARGS="seed=1".
	$(BIN)/python -m experiments.train sweep=digits_few $(ARGS)

test: $(VENV)/.dev-installed  ## Run the tests, without the slow ones.
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.dev-installed  ## Run all tests, the slow ones too.
	$(PYTEST) -m "not gpu" $(ARGS)

lint: $(VENV)/.dev-installed  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev-installed  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev-installed  ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

SHOW := $(BIN)/python -m experiments.show_mixing --examples --dpi 110 --output docs/images
pictures: $(VENV)/.dev-installed  ## Plot the images of README and documentation again.
	$(SHOW)/mixes.png --rows 3 --transport_cost 0.1
	$(SHOW)/grid_beta_eta.png --grid beta=0.4,1.2,4 eta=0,0.2,1
	$(SHOW)/grid_transport_cost.png --row 3 --blocks 4 --num_labels 2 --grid transport_cost=0,0.05,0.2,0.8
	$(SHOW)/grid_num_labels.png --grid num_labels=2,3,5
	$(BIN)/python -m docs.vit_saliency
	@# 256 colors and dithering: they look the same and take less than half the space.
	$(BIN)/python -c "import sys; from PIL import Image; \
	[(i := Image.open(p).convert('RGB')).quantize(palette=i.quantize(256, kmeans=5), dither=Image.Dither.FLOYDSTEINBERG) \
	.save(p, optimize=True) for p in sys.argv[1:]]" docs/images/*.png

benchmark: $(VENV)/.dev-installed  ## Measure the speed of mixing, three minutes; others: make benchmark ARGS=steps.
	$(BIN)/python -m experiments.benchmark $(or $(ARGS),mixing)

gpu-check: $(VENV)/.dev-installed  ## Check and time the mixing on a CUDA device: make gpu-check ARGS=gpu_results; --emulate tries it on the CPU.
	PYTHON=$(abspath $(BIN)/python) bash experiments/gpu_check.sh $(ARGS)

clean:  ## Remove the environment and caches; runs stay.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
