# Two commands, each alone on a fresh machine: make demo, make test. Everything lives in .venv and the container engine.
PYTHON ?= python3
# Another place for the environment, as in the dev container, which has its own beside the host's.
export KERNEL_BRIDGE_VENV ?= .venv
VENV := $(KERNEL_BRIDGE_VENV)
BIN := $(VENV)/bin
IMAGE := kernel-bridge/python:3.13
# Processes that run tests beside each other, whole files each: most of what a test does is waiting.
WORKERS ?= 2

.PHONY: demo test soak bench check lint unit generated picture lock dist clean

demo: $(VENV)/ready  ## show the main job end to end on this machine
	@.ci/engine.sh
	@.ci/image.sh $(IMAGE)
	@$(BIN)/kernel-bridge demo $(if $(filter none,$(ENGINE)),--no-sandbox)

test: $(VENV)/ready  ## everything but the benchmarks
	@ENGINE=required .ci/engine.sh
	@.ci/image.sh $(IMAGE)
	@.ci/browser.sh
	@.ci/compose.sh
	$(MAKE) lint
	$(BIN)/pytest tests -n $(WORKERS) --max-worker-restart=0 --dist loadfile --durations=8

soak: $(VENV)/ready  ## an hour of mixed load, its figures written to tests/soak/RESULT.md, and 200 starts and stops
	@ENGINE=required .ci/engine.sh
	@.ci/image.sh $(IMAGE)
	$(BIN)/python -m tests.soak
	KERNEL_BRIDGE_TEST_CYCLES=200 $(BIN)/pytest -s tests/faults/test_cycles.py

bench: $(VENV)/ready  ## what things cost beside each other, written to tests/bench/RESULT.md
	@ENGINE=required .ci/engine.sh
	@.ci/image.sh $(IMAGE)
	$(BIN)/python -m tests.bench

check: lint unit  ## what is quick: lint, types, unit tests

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/ready
	$(BIN)/pytest -q tests/unit

generated: $(VENV)/ready  ## write the golden tool catalogue and the README tables after a change that is meant
	WRITE_GOLDEN=1 $(BIN)/pytest -q tests/unit/test_tools.py tests/unit/test_readme.py

picture: $(VENV)/ready  ## take the README's picture of JupyterLab anew
	WRITE_GOLDEN=1 $(BIN)/pytest -q tests/e2e/test_jupyterlab.py -k each_others_variables

lock: $(VENV)/ready  ## renew the hashed locks
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --group dev pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --python-version 3.13 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  --constraint requirements.lock pyproject.toml images/bridge/requirements.in --output-file images/bridge/requirements.lock

dist: $(VENV)/ready  ## the wheel and the sdist, as they are published
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

$(VENV)/ready: requirements.lock pyproject.toml
	@PYTHON=$(PYTHON) .ci/venv.sh
	@touch $@

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache dist
