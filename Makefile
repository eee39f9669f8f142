# Two commands, each alone on a fresh machine: make demo, make test. Everything lives in .venv and the container engine.
PYTHON ?= python3
BIN := .venv/bin
IMAGE := kernel-bridge/python:3.13

.PHONY: demo test check lint unit generated lock dist clean

demo: .venv/ready  ## show the main job end to end on this machine
	@.ci/engine.sh
	@.ci/image.sh $(IMAGE)
	@$(BIN)/kernel-bridge demo $(if $(filter none,$(ENGINE)),--no-sandbox)

test: .venv/ready  ## everything but the benchmarks
	@ENGINE=required .ci/engine.sh
	@.ci/image.sh $(IMAGE)
	$(MAKE) lint
	$(BIN)/pytest tests --durations=8

check: lint unit  ## what is quick: lint, types, unit tests

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: .venv/ready
	$(BIN)/pytest -q tests/unit

generated: .venv/ready  ## write the golden tool catalogue and the README tables after a change that is meant
	WRITE_GOLDEN=1 $(BIN)/pytest -q tests/unit/test_tools.py tests/unit/test_readme.py

lock: .venv/ready  ## renew the hashed lock
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --group dev pyproject.toml --output-file requirements.lock

dist: .venv/ready  ## the wheel and the sdist, as they are published
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

.venv/ready: requirements.lock pyproject.toml
	@PYTHON=$(PYTHON) .ci/venv.sh
	@touch $@

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache dist
