# The only thing this needs is a Python (3.11 or newer): everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv

.PHONY: test
test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest -n 4

# docs/benchmarks.md says what each figure means; the status is 1 when one of them misses its bound.
.PHONY: bench
bench: $(VENV)/.installed
	@status=0; for file in benchmarks/[a-z]*.py; do $(VENV)/bin/python $$file || status=1; done; exit $$status

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@
