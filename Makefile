# `make search` and `make test` work on a fresh clone: each makes .venv and installs what it needs.

PYTHON ?= python3
BUDGET ?= 4GFLOPs
RUN := .venv/bin/python

.PHONY: search test test-slow check zoo ranking bench-gpu bench-gpu-ranking clean

search: .venv/run
	$(RUN) run_search.py --budget $(BUDGET)

test: .venv/test check
	$(RUN) -m pytest -q

test-slow: .venv/test
	$(RUN) -m pytest -q -m slow

check: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The table of published networks, docs/zoo.md.
zoo: .venv/run
	$(RUN) run_search.py zoo --markdown docs/zoo.md

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv

# The exact versions of constraints.txt, so that an install next year gives the same.
.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test,export,dev]'
	@touch $@ .venv/run

# The page of rankings, docs/ranking.md, from benchmarks/results.
ranking: .venv/test
	$(RUN) -m benchmarks.ranking_page

# Everything that waits for a GPU, correctness first. It installs nothing: PYTHON must have torch,
# numpy, PyYAML, safetensors and scikit-learn; the ranking also pandas, pyarrow, Pillow and rich.
GPU = $$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' ' '-')

bench-gpu:
	$(PYTHON) -m benchmarks.gpu_check --json "benchmarks/results/gpu_check-$(GPU).json"

# 9 minutes by itself. CIFAR10 and NASBENCH_MACRO are the data; see benchmarks/README.md.
bench-gpu-ranking:
	$(PYTHON) -m benchmarks.ranking_nasbench_macro --preset full --data "$(CIFAR10)" \
	  --table "$(NASBENCH_MACRO)" --json "benchmarks/results/ranking_nasbench_macro-$(GPU).json"
