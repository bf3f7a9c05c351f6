# make env    the environment only
# make train  the environment, then six minutes of training on the embedded data: make train ARGS="backend=grid"
# make test   the environment, then the tests on two cores; on more: make test ARGS="-n 8"; long forms: make test ARGS="-m slow"
# make check  linters, types and import contracts
# make docs   the documentation, into build/site; any warning stops it. To see changes while writing: make docs ARGS=serve
# make fuzz   structures against an oracle and mutated files within limits, thousands of each; tests.fuzz tells the options
# make bench  eqmol beside e3nn and mace-torch, in an environment of its own: make bench ARGS="convolution" for one suite
# For a GPU: make train TORCH="torch==2.13.0 --index-url <PyTorch's CUDA index>"

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
ARGS   ?=
PY     := $(VENV)/bin/python
BENCH  := .venv-bench
PIP    := --disable-pip-version-check

.PHONY: env train test check docs fuzz bench
.DELETE_ON_ERROR:

env: $(VENV)/.ready

# torch comes first and alone: whichever build is there then satisfies the range of pyproject.toml
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "eqmol needs Python 3.11 or newer; choose one with make PYTHON=python3.11" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "1/2: PyTorch, which is large"
	$(PY) -m pip install $(PIP) $(TORCH)
	@echo "2/2: eqmol and what else it needs"
	$(PY) -m pip install $(PIP) -c constraints.txt -e ".[dev]"
	touch $@

train: env
	$(PY) train.py trainer.max_time=00:00:06:00 $(ARGS)

test: env
	@echo "five to six minutes on two idle cores; make test ARGS=tests/so3 runs a part"
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

check: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# material's banner about a later mkdocs is not about these pages
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs $(or $(ARGS),build) --strict --config-file docs/site/mkdocs.yml

$(VENV)/.docs-ready: $(VENV)/.ready
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

fuzz: env
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz.structures
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz.files

bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks.peers --output docs/benchmarks $(ARGS)

# mace-torch pins an old e3nn; the current one lies in a folder beside it
$(BENCH)/.ready: benchmarks/peers/requirements.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install $(PIP) $(TORCH)
	$(BENCH)/bin/python -m pip install $(PIP) -r benchmarks/peers/requirements.txt
	$(BENCH)/bin/python -m pip install $(PIP) --no-deps --upgrade -t $(BENCH)/e3nn-current e3nn==0.6.0
	touch $@
