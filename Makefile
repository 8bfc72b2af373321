# Every target sets up its own virtual environment; run any of them again and again.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-control
LANGUAGE_PEERS := .venv-language
ENGINE := .venv-engine
ENVIRONMENTS := .venv-environments
VERIFIERS := .venv-verifiers
CLUSTER := .venv-cluster
SITE := .venv-site
RELEASE := .venv-release
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

TOGETHER := $(BIN)/pytest --numprocesses 3 --dist worksteal

.PHONY: demo test types units test-examples test-processes test-reliability test-environments test-cluster test-gpu docs page test-site \
	picture families benchmark benchmark-control benchmark-language benchmark-memory benchmark-engine wheel matrix release clean

demo: $(VENV)/examples  ## GRPO on a bandit whose arms drift
	$(BIN)/python examples/dynamic_bandit.py

test: $(VENV)/dev  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(MAKE) --jobs=2 types units

types: $(VENV)/dev
	$(BIN)/mypy

units: $(VENV)/dev
	$(TOGETHER) $(addprefix --ignore tests/,cluster distributed examples reliability site test_examples.py)

test-examples: $(VENV)/dev  ## examples run, shorter where they take options for that
	$(TOGETHER) tests/examples tests/test_examples.py

test-processes: $(VENV)/dev  ## several processes train as one does; they take all cores, and so come one after the other
	$(BIN)/pytest tests/distributed

test-reliability: $(VENV)/dev  ## trainings that are killed at any moment, a thousand models that answer wrongly
	$(BIN)/pytest --numprocesses 2 tests/reliability

test-environments: $(ENVIRONMENTS)/ready $(VERIFIERS)/ready  ## environments of others, with their packages
	PYTHONPATH=$(CURDIR):$(CURDIR)/adapters $(ENVIRONMENTS)/bin/python -m pytest tests/environments_of_others
	PYTHONPATH=$(CURDIR):$(CURDIR)/adapters $(VERIFIERS)/bin/python -m pytest tests/environments_of_others/test_verifiers.py

test-cluster: $(CLUSTER)/ready  ## Ray, Slurm, Kubernetes: the examples and files, with their packages
	PYTHONPATH=$(CURDIR):$(CURDIR)/adapters $(CLUSTER)/bin/python -m pytest tests/cluster

test-gpu: $(if $(GPU_PYTHON),,$(VENV)/dev)  ## what differs on a GPU; GPU_PYTHON=python3 takes an interpreter of its own
	PYTHONPATH=$(CURDIR):$(CURDIR)/adapters $(or $(GPU_PYTHON),$(BIN)/python) -m pytest tests/gpu --override-ini=filterwarnings= \
		--continue-on-collection-errors

docs: $(VENV)/dev  ## the site, into docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html docs docs/_build/html

page: $(VENV)/dev  ## one page of the site, make page PAGE=learn/gae.md, into docs/_build/one
	$(if $(PAGE),,$(error which page? for instance: make page PAGE=learn/gae.md))
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html -D include_patterns=index.md,measured/raw/*,$(PAGE) \
		-D suppress_warnings=mystnb.unknown_mime_type,myst.xref_missing,ref,toc docs docs/_build/one
	@echo 'Open docs/_build/one/$(basename $(PAGE)).html'

test-site: $(SITE)/ready  ## the pages that `make docs` built, in Chromium
	PYTHONPATH=$(CURDIR):$(CURDIR)/adapters $(SITE)/bin/python -m pytest --numprocesses 2 --dist worksteal tests/site

picture:  ## the picture of the core's packages, into CONTRIBUTING.md
	$(PYTHON) docs/packages.py

families: $(VENV)/dev  ## what works with which family of language models, into docs/reference/language-model-families.md
	$(BIN)/python tests/benchmarks/families.py

benchmark: $(VENV)/dev  ## what a step costs beside a hand-written loop, what runs and checkpoints cost, and two processes
	$(BIN)/python tests/benchmarks/step_overhead.py
	$(BIN)/python tests/benchmarks/simulator_speed.py
	$(BIN)/python tests/benchmarks/checkpoint_cost.py
	$(BIN)/python tests/benchmarks/scaling.py

benchmark-control: $(PEERS)/control  ## control beside Stable-Baselines3, in an environment of its own
	$(PEERS)/bin/python tests/benchmarks/advantages_speed.py
	$(PEERS)/bin/python tests/benchmarks/control_learning.py
	$(PEERS)/bin/python tests/benchmarks/control_speed.py

benchmark-language: $(LANGUAGE_PEERS)/language  ## language models beside TRL, in an environment of its own
	$(LANGUAGE_PEERS)/bin/python tests/benchmarks/trl_parity.py
	$(LANGUAGE_PEERS)/bin/python tests/benchmarks/log_probs_speed.py
	$(LANGUAGE_PEERS)/bin/python tests/benchmarks/language_speed.py
	$(LANGUAGE_PEERS)/bin/python tests/benchmarks/preference_speed.py

benchmark-memory: $(LANGUAGE_PEERS)/language  ## what each option of a language model saves
	$(LANGUAGE_PEERS)/bin/python tests/benchmarks/language_memory.py

benchmark-engine: $(ENGINE)/engine  ## training through vLLM on a CPU, in an environment of its own of 4 GB
	$(ENGINE)/bin/python tests/benchmarks/engine_training.py

wheel: $(VENV)/dev  ## the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

matrix:  ## the core with each Python and PyTorch of .ci/matrix.json whose Python is here; 2 to 3 GB a PyTorch
	$(PYTHON) .ci/matrix.py

release: $(RELEASE)/ready  ## what would be published, into dist/, checked and used from outside the tree
	rm -rf dist
	$(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/python -m twine check --strict dist/*
	PYTHON=$(PYTHON) .ci/outside

clean:  ## everything that was built or installed here
	rm -rf $(VENV) $(PEERS) $(LANGUAGE_PEERS) $(ENGINE) $(ENVIRONMENTS) $(VERIFIERS) $(CLUSTER) $(SITE) $(RELEASE) dist docs/_build outputs \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/python: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/examples $(VENV)/dev: $(VENV)/%: $(VENV)/python pyproject.toml
	$(INSTALL) --editable ".[$*]"
	touch $@

$(PEERS)/control: constraints.txt pyproject.toml tests/benchmarks/requirements-control.txt
	$(PYTHON) -m venv $(PEERS)
	grep --invert-match '^pandas=' constraints.txt > $(PEERS)/constraints.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(PEERS)/constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(PEERS)/constraints.txt \
		--editable ".[examples]" --requirement tests/benchmarks/requirements-control.txt
	touch $@

$(LANGUAGE_PEERS)/language: constraints.txt pyproject.toml tests/benchmarks/requirements-language.txt
	$(PYTHON) -m venv $(LANGUAGE_PEERS)
	$(LANGUAGE_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(LANGUAGE_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable ".[huggingface]" --requirement tests/benchmarks/requirements-language.txt
	touch $@

# What is in .venv is seen in these too, so that only the rest is installed.
WITH_PARENT = $(BIN)/python -m venv $(@D) && $(BIN)/python -c 'import sysconfig; here, there = sysconfig.get_path("purelib"), \
	sysconfig.get_path("purelib", vars={"base": "$(@D)"}); open(f"{there}/parent.pth", "w").write(f"{here}\n")'

$(ENVIRONMENTS)/ready: $(VENV)/dev constraints.txt tests/environments_of_others/requirements.txt
	$(WITH_PARENT)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement tests/environments_of_others/requirements.txt
	touch $@

$(VERIFIERS)/ready: $(VENV)/dev tests/environments_of_others/requirements-verifiers.txt
	$(WITH_PARENT)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/environments_of_others/requirements-verifiers.txt
	touch $@

$(CLUSTER)/ready: $(VENV)/dev constraints.txt tests/cluster/requirements.txt
	$(WITH_PARENT)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement tests/cluster/requirements.txt
	touch $@

$(SITE)/ready: $(VENV)/dev tests/site/requirements.txt
	$(WITH_PARENT)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/site/requirements.txt
	touch $@

$(RELEASE)/ready: .ci/requirements-release.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement .ci/requirements-release.txt
	touch $@

# The build for CPUs brings packages for CUDA that do not load beside its PyTorch, and is looked for under vLLM's own name.
VLLM_INFO := vllm-0.32.0+cpu.dist-info
$(ENGINE)/engine: pyproject.toml tests/benchmarks/requirements-engine.txt
	$(PYTHON) -m venv $(ENGINE)
	$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable ".[engines]" --requirement tests/benchmarks/requirements-engine.txt
	$(ENGINE)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	packages=$$($(ENGINE)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
		&& mkdir -p "$$packages/$(VLLM_INFO)" \
		&& printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$packages/$(VLLM_INFO)/METADATA"
	touch $@
