# Every target prints what it does; `make` alone lists them.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo prove test slow lint fix bench pictures soak clean

help:  ## List the targets
	@echo "Kelron: give an open LLM a new identity on free GPUs"
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(READY)  ## Make .venv with Kelron and everything it needs (the other targets do it by themselves)

# torch comes first and pinned, so that nothing else pulls in another build of it.
$(READY): requirements.lock pyproject.toml
	@echo "== setting up .venv (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Kelron needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)  ## The main job on the tiny preset: data, two training sessions, scoreboard, chat (about 4 minutes)
	@echo "== the whole of Kelron on two CPU cores, into runs/demo"
	@$(BIN)/kelron demo --out runs/demo

# Two at a time, by file: tests that share a trained run stay together; one thread of torch each, or they fight. The
# slow ones start several processes each and wait for them: one at a time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

prove: $(READY)  ## Hold the first attempt's recipe and each fix against today's, on the tiny base (about half an hour)
	@echo "== the proof, into runs/prove"
	@$(BIN)/kelron prove

test: $(READY)  ## Run the tests (CPU; offline after the first time, which installs Kaggle's versions)
	@echo "== tests"
	@$(PYTEST)

slow: $(READY)  ## Run the whole runs that are too long for `make test`: kills, chains of sessions on Kaggle's stand-in
	@echo "== slow tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and not gpu"

lint: $(READY)  ## Check style, types and notebooks, change nothing
	@echo "== ruff, mypy"
	@$(BIN)/ruff check --output-format concise .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run make fix"; exit 1; }
	@$(BIN)/mypy

fix: $(READY)  ## Format and mend what ruff can mend
	@echo "== ruff --fix"
	@$(BIN)/ruff check --fix --output-format concise .
	@$(BIN)/ruff format .

bench: $(READY)  ## Measure speed on this machine; see benchmarks/
	@echo "== benchmarks"
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

pictures: $(READY)  ## Take README's pictures of runs/demo (made first if missing) in a real browser, into docs/
	@echo "== pictures, into docs/"
	@test -f runs/demo/report.html || $(MAKE) demo
	@$(BIN)/python tests/pictures.py --run runs/demo --out docs

soak: $(READY)  ## Kill training 200 times at random moments (about an hour), table into docs/reliability.md
	@echo "== soak"
	@OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py --processes 1 2 --kills 150 50 --report docs/reliability.md

clean:  ## Remove .venv, caches and runs/demo
	@echo "== removing .venv, caches and runs/demo"
	@rm -rf .venv runs/demo build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
