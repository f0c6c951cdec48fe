# make demo: install into .venv, then the main job end to end on scikit-learn's digits, about 2 minutes after the install.
# make test: the fast tests, about 6 minutes.  make test-all: the slow ones too.  make gpu: tests and timings on a CUDA GPU.
# make kills: 200 runs killed and resumed.  make mutants: faults planted in a copy, and how many of them the tests notice, an hour.
# make check: ruff and mypy.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test test-all gpu kills mutants check clean

LAUNCH := $(RUN)/accelerate launch --config_file accelerate_configs/cpu.yaml

demo: $(VENV)/installed
	rm -rf demo
	$(RUN)/python scripts/digits.py --out demo/data
	$(LAUNCH) scripts/train_classifier.py --cfg recipes/digits.yaml --out demo/classifier
	$(LAUNCH) scripts/train_embedding.py --cfg recipes/digits_identity.yaml --out demo/embedding
	$(RUN)/python scripts/retrieve.py --run demo/embedding --topk 5
	$(RUN)/python scripts/retrieve.py --run demo/embedding --evaluate demo/data/identities/truth.csv
	@echo
	@echo "Look at demo/classifier/report.html and demo/embedding/retrieval/retrieval.html; demo/classifier/submission.csv is what a contest gets."
	@echo "Next: copy recipes/digits.yaml, point its data section at your contest, and run the same command with it."

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2
	@echo "Next: make test-all runs the slow tests too; make check runs ruff and mypy."

test-all: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 -m "slow or not slow"

gpu: $(VENV)/installed
	@if $(RUN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
	  set -e; $(RUN)/python -c "import torch; print(torch.cuda.get_device_name(0))"; \
	  $(RUN)/python -m pytest -m gpu --timeout 600 tests/gpu; $(RUN)/python benchmarks/speed.py --quick; \
	else echo "make gpu: skipped, because PyTorch finds no CUDA GPU on this machine."; fi

kills: $(VENV)/installed
	KILLS=8 OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 -m slow tests/faults/test_kills.py tests/scripts/test_launch.py tests/scripts/test_tune.py

mutants: $(VENV)/installed
	$(RUN)/pip install -q -e '.[mutants]'
	OMP_NUM_THREADS=1 $(RUN)/python tests/mutants.py

check: $(VENV)/installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# torch is not replaced where the environment brings one: VENV_FLAGS=--system-site-packages (Kaggle, Colab)
$(VENV)/installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(RUN)/pip install -q --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf demo .venv *.egg-info
