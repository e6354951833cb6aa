# Two commands for a newcomer: `make demo` and `make test`. Each makes its own environment first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := out/demo
# The ten columns of means: see docs/tutorials/table.md on why not all thirty.
MEANS := mean_radius,mean_texture,mean_perimeter,mean_area,mean_smoothness,mean_compactness,mean_concavity,mean_concave_points,mean_symmetry,mean_fractal_dimension
# Any order of the tests must do; SEED=7 gives another. Bytecode is kept, whatever the environment
# says: tests start many processes, which would each compile all that they import.
SEED ?= 0
TESTS := PYTHONDONTWRITEBYTECODE= $(VENV)/bin/pytest --numprocesses=logical --dist=loadfile --randomly-seed=$(SEED)

# The lowest versions that pyproject.toml admits, of Python too.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= python$(shell sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)

.PHONY: accuracy demo evidence test test-all test-oldest lock lint types format docs clean

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
	printf 'x1\n0.9\n-0.3\n' > $(DEMO)/seen.csv
	$(RUN) posterior.py sample --network=$$(ls $(DEMO)/PRR/network-snapshot-*.pkl | tail -n 1) \
	    --observation=$(DEMO)/seen.csv --likelihood=mask --mask=x1 --noise_std=0.1 \
	    --save_dir=$(DEMO)/posterior
	$(RUN) visualize.py $(DEMO)/posterior --dest=$(DEMO)/posterior/pictures
	$(RUN) dataset_tool.py --source=breast_cancer --dest=$(DEMO)/table/breast_cancer.npz \
	    --columns=$(MEANS)
	$(RUN) train.py --outdir=$(DEMO)/table --nosubdir --data=$(DEMO)/table/breast_cancer.npz
	$(RUN) pfODE_int.py --save_dir=$(DEMO)/table --data_root=$(DEMO)/table/breast_cancer.npz --log_prob \
	    --network=$$(ls $(DEMO)/table/network-snapshot-*.pkl | tail -n 1) \
	    --csv=$(DEMO)/table/samples.csv
	$(RUN) visualize.py $(DEMO)/table --dest=$(DEMO)/table/pictures
	$(RUN) report.py $(DEMO) --dest=$(DEMO)/report.html
	@echo "Pictures are in the folders pictures of $(DEMO)/PRP, PRR, posterior and table"
	@echo "All of it, to touch, is in $(DEMO)/report.html: open it in a browser"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The page of every file and key, from the docstrings of the modules that own the formats; then the
# site, which fails if a link is broken.
docs: $(READY)
	$(RUN) docs/make_files.py
	$(RUN) -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "The site is in out/site: open index.html in a browser"

# Types are checked beside the tests, which leave a core idle now and then.
test: lint
	$(VENV)/bin/mypy > $(VENV)/types.log 2>&1 & types=$$!; \
	$(TESTS) -m "not slow and not hostile and not browser"; tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/types.log; [ $$tests = 0 ] && [ $$types = 0 ]

# Held-out accuracy of posteriors by today's defaults, beside what was recorded.
accuracy: $(READY)
	OMP_NUM_THREADS=1 $(RUN) benchmarks/default_accuracy.py

# The pages of docs/evidence from the stored results of benchmarks/results; scripts there run cells.
evidence: $(READY)
	$(RUN) benchmarks/evidence.py

test-all: lint types
	$(TESTS) --hypothesis-profile=many

$(OLDEST)/.ready: pyproject.toml
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python \
	    --resolution lowest-direct --editable '.[dev]'
	touch $(OLDEST)/.ready

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/pytest --numprocesses=logical --dist=loadfile --randomly-seed=$(SEED) \
	    -m "not slow and not hostile"

# The versions of this environment, for who wants these: pip install -c requirements.lock -e .
lock: $(READY)
	$(RUN) -m pip install --quiet uv
	$(RUN) -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(VENV)/versions.txt
	$(VENV)/bin/uv pip compile --quiet --universal --extra dev --extra lmdb --no-annotate \
	    --custom-compile-command 'make lock' --constraint $(VENV)/versions.txt \
	    --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) $(OLDEST) $(DEMO)
