# `make search` and `make test` work on a fresh clone: each makes .venv and installs what it needs.

PYTHON ?= python3
BUDGET ?= 4GFLOPs
RUN := .venv/bin/python

.PHONY: search test test-slow check docs reference zoo ranking search-tables latency-tables bench bench-latency bench-gpu bench-gpu-ranking clean

search: .venv/run
	$(RUN) run_search.py --budget $(BUDGET)

# What computes alone runs on all cores; what measures time, or starts processes, by itself.
ALONE = tests/space tests/supernet tests/results \
  $(filter-out $(wildcard tests/search/test_ray*.py),$(wildcard tests/search/test_*.py))

test: .venv/test check
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto $(ALONE)
	$(RUN) -m pytest -q $(ALONE:%=--ignore=%)

test-slow: .venv/test
	$(RUN) -m pytest -q -m slow

check: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The site of docs/, in site/; any warning, such as a link that leads nowhere, is an error.
docs: .venv/test
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

# The pages that are made from the code and from results: docs/reference and docs/measured.md.
reference: .venv/run
	$(RUN) -m pages.reference

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
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test,export,dev,docs]'
	@touch $@ .venv/run

# The page of rankings, docs/ranking.md, from benchmarks/results.
ranking: .venv/test
	$(RUN) -m benchmarks.ranking_page

# What the controllers are compared with.
.venv/baselines: .venv/test
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[baselines]'
	@touch $@

# Controllers on tables, ours and others, then docs/controllers.md. TABLES is a folder; see
# benchmarks/README.md. It takes hours, and goes on where it was stopped.
search-tables: .venv/baselines
	$(RUN) -m benchmarks.search_rows --tables "$(TABLES)"
	$(RUN) -m benchmarks.search_page

# What 200 measurements say of latencies that others published, then docs/latency_tables.md. TABLES
# is a folder, as above. Half an hour.
latency-tables: .venv/test
	$(RUN) -m benchmarks.latency_tables --tables "$(TABLES)" \
	  --json benchmarks/results/latency_tables.json
	$(RUN) -m benchmarks.latency_tables_page

# Speed on this machine's processor. CIFAR10 is a parquet folder; see benchmarks/README.md.
bench: .venv/test
	$(RUN) -m benchmarks.scoring --data "$(or $(CIFAR10),digits)" --device cpu \
	  --json benchmarks/results/scoring-cpu.json
	$(RUN) -m benchmarks.kernels --ahead --json benchmarks/results/kernels-ahead-sm90.json
	$(RUN) -m benchmarks.kernels_page
	$(RUN) -m benchmarks.scoring_page

# Latencies on this machine's processor: how wrong predictions are, and whether searches keep to
# their budgets. An hour, on a machine that does nothing else.
bench-latency: .venv/test
	$(RUN) -m benchmarks.latency --device cpu --json benchmarks/results/latency-cpu.json
	$(RUN) -m benchmarks.latency --device cpu --proxy \
	  --json benchmarks/results/latency-proxy-cpu.json
	$(RUN) -m benchmarks.latency_budgets --runs runs/latency_budgets \
	  --json benchmarks/results/latency_budgets-cpu.json
	$(RUN) -m benchmarks.latency_page

# Everything that waits for a GPU, correctness first, in less than 9 minutes. It installs nothing:
# PYTHON must have torch, triton, numpy, SciPy, PyYAML, safetensors and scikit-learn; with CIFAR10
# also pyarrow and Pillow. What fails does not keep the rest from being measured.
GPU = $$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' ' '-')
TO = benchmarks/results

bench-gpu:
	-$(PYTHON) -m benchmarks.gpu_check --steps 5 --networks 4 --json "$(TO)/gpu_check-$(GPU).json"
	-$(PYTHON) -m benchmarks.kernels --small --json "$(TO)/kernels-small-$(GPU).json"
	-$(PYTHON) -m benchmarks.latency --device cuda:batch=1,dtype=bf16 --minutes 2 --rounds 3 \
	  --profile "/tmp/$(GPU).profile.json" --json "$(TO)/latency-$(GPU).json"
	-$(PYTHON) -m benchmarks.memory --json "$(TO)/memory-$(GPU).json"
	-$(PYTHON) -m benchmarks.kernels --seconds 90 --json "$(TO)/kernels-$(GPU).json"
	-$(PYTHON) -m benchmarks.scoring --data "$(or $(CIFAR10),digits)" --steps 60 --repeats 1 \
	  --orders 50 --json "$(TO)/scoring-$(GPU).json"

# 9 minutes by itself. CIFAR10 and NASBENCH_MACRO are the data; see benchmarks/README.md.
bench-gpu-ranking:
	$(PYTHON) -m benchmarks.ranking_nasbench_macro --preset full --data "$(CIFAR10)" \
	  --table "$(NASBENCH_MACRO)" --json "$(TO)/ranking_nasbench_macro-$(GPU).json"
