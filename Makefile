# make demo: install, then run the main job.  make test: install, then run all tests.  make quick: the tests of a few minutes.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Each file's tests go to one process, so that what they share is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30

.PHONY: demo quick test lint lock sbom clean

demo: $(STAMP)
	$(BIN)/rnet demo

quick: $(STAMP)
	$(PYTEST) -m "not slow and not slurm and not mpi"

test: $(STAMP)
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Of a release: requirements/*.txt with hashes, and dist/rnet.cdx.json.
lock: $(STAMP)
	$(BIN)/python -m tests.packaging.lock

sbom: $(STAMP)
	$(BIN)/python -m tests.packaging.sbom dist/rnet.cdx.json

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,mpi]'
	touch $(STAMP)

clean:
	rm -rf $(VENV)
