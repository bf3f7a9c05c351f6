# make env    the environment only
# make train  the environment, then six minutes of training on the embedded data: make train ARGS="backend=grid"
# make test   the environment, then the tests
# make check  linters, types and import contracts
# For a GPU: make train TORCH="torch==2.13.0 --index-url <PyTorch's CUDA index>"

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
ARGS   ?=
PY     := $(VENV)/bin/python

.PHONY: env train test check
.DELETE_ON_ERROR:

env: $(VENV)/.ready

# torch comes first and alone: whichever build is there then satisfies the range of pyproject.toml
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "eqmol needs Python 3.11 or newer; choose one with make PYTHON=python3.11" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check $(TORCH)
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

train: env
	$(PY) train.py trainer.max_time=00:00:06:00 $(ARGS)

test: env
	$(PY) -m pytest $(ARGS)

check: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
