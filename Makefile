# `make train` and `make test` are all a newcomer needs; both set up .venv first. README.md shows the plain commands behind them.
# Windows has other names for the interpreter and for the folder of an environment's commands.
ifeq ($(OS),Windows_NT)
PYTHON ?= python
COMMANDS := Scripts
else
PYTHON ?= python3
COMMANDS := bin
endif
VENV := .venv
BIN := $(VENV)/$(COMMANDS)
LOWEST := .venv-lowest
RECIPES := .venv-recipes
DIST := .venv-dist
ARGS ?=
# Torch's threads soon sleep while they wait instead of spinning, which on a busy machine is several times faster.
export GOMP_SPINCOUNT ?= 20000
# Python reads and writes UTF-8 on Windows too.
export PYTHONUTF8 := 1

PYTEST_OPTIONS := -n auto --maxprocesses 8 --dist loadfile
PYTEST := $(BIN)/python -m pytest $(PYTEST_OPTIONS)
PLUGIN_TESTS := tests --ignore tests/experiments --ignore tests/docs

.PHONY: help train test test-all test-plugin test-lowest test-recipes lint format docs dist pictures benchmark gpu-check clean

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

# In every environment, whatever the interpreter in it is called.
%/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(@D)

$(VENV)/.experiments-installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install -e '.[experiments]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install -e '.[all,dev]'
	@touch $@ $(VENV)/.experiments-installed $(VENV)/.test-installed

$(VENV)/.test-installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install -e '.[test]'
	@touch $@

# The lowest versions that pyproject.toml allows and that have wheels for this Python; what they need in turn is as new as it may be.
$(LOWEST)/.test-installed: pyproject.toml | $(LOWEST)/pyvenv.cfg
	$(LOWEST)/$(COMMANDS)/pip install uv
	$(LOWEST)/$(COMMANDS)/uv pip compile pyproject.toml --extra test --resolution lowest-direct --only-binary :all: \
		--python $(LOWEST) --quiet --output-file $(LOWEST)/requirements.txt
	$(LOWEST)/$(COMMANDS)/uv pip install --python $(LOWEST) -r $(LOWEST)/requirements.txt
	$(LOWEST)/$(COMMANDS)/uv pip install --python $(LOWEST) --no-deps -e .
	@touch $@

# Apart: with transformers installed every import of Lightning takes longer.
$(RECIPES)/.installed: pyproject.toml | $(RECIPES)/pyvenv.cfg
	$(RECIPES)/$(COMMANDS)/pip install -e '.[test,timm,huggingface]'
	@touch $@

train: $(VENV)/.experiments-installed  ## Train on ten labels of each digit, without mixing and with Puzzle Mix; another seed: make train ARGS="seed=1".
	$(BIN)/python -m experiments.train sweep=digits_few $(ARGS)

test: $(VENV)/.dev-installed  ## Run the tests, without the slow ones.
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.dev-installed  ## Run all tests, the slow ones too.
	$(PYTEST) -m "not gpu" $(ARGS)

test-plugin: $(VENV)/.test-installed  ## Run the tests of the plugin alone, for which the study need not be installed.
	$(PYTEST) $(PLUGIN_TESTS) $(ARGS)

test-lowest: $(LOWEST)/.test-installed  ## Run the tests of the plugin with the lowest versions that pyproject.toml allows.
	$(LOWEST)/$(COMMANDS)/python -m pytest $(PYTEST_OPTIONS) $(PLUGIN_TESTS) $(ARGS)

test-recipes: $(RECIPES)/.installed  ## Run the recipes of the documentation, that for the Hugging Face Trainer among them.
	$(RECIPES)/$(COMMANDS)/python -m pytest tests/docs/test_recipe_page.py $(ARGS)

lint: $(VENV)/.dev-installed  ## Check style, types and workflows.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml

format: $(VENV)/.dev-installed  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev-installed  ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: $(DIST)/pyvenv.cfg  ## Build wheel and sdist into dist/, check them, and train with the installed wheel outside the checkout.
	rm -rf dist
	$(DIST)/$(COMMANDS)/pip install --upgrade build twine
	$(DIST)/$(COMMANDS)/python -m build
	$(DIST)/$(COMMANDS)/python -m twine check --strict dist/*
	$(DIST)/$(COMMANDS)/pip install --force-reinstall --no-deps dist/*.whl
	$(DIST)/$(COMMANDS)/pip install dist/*.whl
	cd $(DIST) && $(COMMANDS)/python -I "$(CURDIR)/tests/smoke.py"

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

clean:  ## Remove the environments, packages and caches; runs stay.
	rm -rf $(VENV) $(LOWEST) $(RECIPES) $(DIST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
