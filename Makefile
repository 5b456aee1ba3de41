# Every target sets up .venv by itself. Another interpreter: make test PYTHON=python3.13
PYTHON ?= python3
PY := .venv/bin/python
PIP := -m pip --disable-pip-version-check -qq  # errors only
READY := .venv/.installed

# The other libraries that `make parity` compares with, apart from .venv.
PARITY := .venv-parity
PEERS := torch==2.13.0 pillow==13.0.0 huggingface-hub==2.4.0 pyyaml==6.0.3
PEERS_ALONE := torchvision==0.28.0 timm==1.0.31

# The libraries that `make trackers` logs to, apart from .venv.
TRACKERS := .venv-trackers
TRACKED := wandb==0.31.0 mlflow-skinny==3.17.2

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench parity trackers stress constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(READY)  ## retrain the shipped ResNet-20 on handwritten digits
	@$(PY) data/make_digits.py
	@$(PY) launchers/train_with_patience.py --run runs/demo

test: $(READY)  ## run the tests
	@$(PY) -m pytest -n auto --dist loadfile

check: $(READY)  ## run the linters and the type checker
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

format: $(READY)  ## format the code and mend what the linter can
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

bench: $(READY)  ## measure training, reading, saving and importing (half an hour; keep the machine idle)
	@$(PY) benchmarks/training.py
	@$(PY) benchmarks/training.py --precision bfloat16
	@$(PY) benchmarks/training.py --network resnet20 --steps 15
	@$(PY) benchmarks/training.py --network small --steps 300
	@$(PY) benchmarks/training.py --task testing
	@$(PY) benchmarks/reading.py
	@$(PY) benchmarks/checkpoint.py
	@$(PY) benchmarks/writer.py
	@$(PY) benchmarks/writer.py --network small --steps 400
	@$(PY) benchmarks/import.py
	@$(PY) benchmarks/frozen.py
	@$(PY) benchmarks/workers.py
	@$(PY) -m benchmarks.report

parity: $(PARITY)/.installed  ## compare imported networks with torchvision, timm and Keras
	@$(PARITY)/bin/python -m benchmarks.parity

trackers: $(TRACKERS)/.installed  ## log to Weights & Biases and MLflow, and read it back
	@$(TRACKERS)/bin/python -m pytest tests/test_trackers.py

stress: $(READY)  ## run the fault tests, the pages in a browser, and other long tests
	@$(PY) -m pytest -m stress --timeout 1800

# On the oldest Python we support, so that every version pinned exists for all of them.
constraints:  ## resolve the newest versions allowed into constraints.txt
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and \
	    "`make constraints` runs on Python 3.11: give PYTHON=python3.11")'; \
	$(PYTHON) -m venv "$$fresh/venv"; \
	"$$fresh/venv/bin/python" $(PIP) install --upgrade setuptools -e '.[dev]'; \
	sed '/^#/!d' constraints.txt > "$$fresh/new"; \
	"$$fresh/venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip \
	    >> "$$fresh/new"; \
	cp "$$fresh/new" constraints.txt; \
	echo "Wrote constraints.txt; now run: make check test"

clean:  ## remove .venv*, caches and build products (never runs/ or data/)
	@rm -rf .venv $(PARITY) $(TRACKERS) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv without a working pip (interrupted, or its Python is gone) is made anew.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv with the pinned packages (a few minutes the first time)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PY) $(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# Without their requirements: torchvision asks for one build of PyTorch, mostly the one for
# GPUs, for its compiled operators. Its models, which are all that is compared, are plain
# Python (tests/golden/peers.py), and timm would bring torchvision's requirements back.
$(PARITY)/.installed: Makefile pyproject.toml constraints.txt
	@echo "Setting up $(PARITY) with the pinned packages (a few minutes the first time)"
	@$(PARITY)/bin/python -m pip --version >/dev/null 2>&1 || \
	    $(PYTHON) -m venv --clear $(PARITY)
	@$(PARITY)/bin/python $(PIP) install -c constraints.txt -e . $(PEERS)
	@$(PARITY)/bin/python $(PIP) install --no-deps $(PEERS_ALONE)
	@touch $@

$(TRACKERS)/.installed: Makefile pyproject.toml constraints.txt
	@echo "Setting up $(TRACKERS) with the pinned packages (a few minutes the first time)"
	@$(TRACKERS)/bin/python -m pip --version >/dev/null 2>&1 || \
	    $(PYTHON) -m venv --clear $(TRACKERS)
	@$(TRACKERS)/bin/python $(PIP) install -c constraints.txt -e '.[dev,wandb,mlflow]' \
	    $(TRACKED)
	@touch $@
