# Two commands for a newcomer: `make demo` and `make test`. Each makes its own environment first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := out/demo
# Any order of the tests must do; SEED=7 gives another.
SEED ?= 0
TESTS := $(VENV)/bin/pytest --numprocesses=logical --dist=worksteal --randomly-seed=$(SEED)

.PHONY: demo test test-all lint types format clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	rm -rf $(DEMO)
	$(RUN) toy_train.py --outdir=$(DEMO)/PRP --nosubdir --data_name=circles
	$(RUN) toy_train.py --outdir=$(DEMO)/PRR --nosubdir --data_name=circles --dims_to_keep=1
	for schedule in PRP PRR; do \
	    $(RUN) toy_pfODE_int.py net --save_dir=$(DEMO)/$$schedule --save_freq=1 \
	        --network=$$(ls $(DEMO)/$$schedule/network-snapshot-*.pkl | tail -n 1) && \
	    $(RUN) visualize.py $(DEMO)/$$schedule --dest=$(DEMO)/$$schedule/pictures || exit 1; \
	done
	@echo "Pictures are in $(DEMO)/PRP/pictures and $(DEMO)/PRR/pictures"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test: lint types
	$(TESTS) -m "not slow and not hostile"

test-all: lint types
	$(TESTS) --hypothesis-profile=many

clean:
	rm -rf $(VENV) $(DEMO)
