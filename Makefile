# Linux and macOS; GNU make 3.81 and any sh. On Windows: pip install -c constraints.txt -e . does what `make install` does.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The Python that .venv is made with: make install PYTHON=/path/to/python3.12
PYTHON ?=
CANDIDATES := python3.11 python3.12 python3.13 python3.10 python3 python
# True of a Python that panbench runs on and that can make a virtual environment.
FITS := -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

.PHONY: help install demo quick test engines benchmarks docs lint format

help:
	@echo "make install   make .venv with the command .venv/bin/panbench"
	@echo "make demo      run three small models on generated scenes and compare them (1 to 3 minutes on 2 cores)"
	@echo "make quick     lint, types, and the tests that need neither a model nor a browser: while you write"
	@echo "make test      lint, types and tests (make test ARGS='-k pq' runs some tests only)"
	@echo "make engines   the tests that start clusters and object stores on this machine (an environment of its own, on top of .venv)"
	@echo "make benchmarks   benchmarks that need no GPU, into results/benchmarks and the tables of docs (ONLY=score,metrics: some)"
	@echo "make docs      the documentation as a site, in build/site (an environment of its own, 200 MB)"
	@echo "make lint      lint and types only"
	@echo "make format    format the code"

install: $(VENV)/.installed
	@:

# The checksum of what an install depends on. The file changes only when the sum does: neither a checkout, which makes files newer,
# nor a setting of the linter starts pip again.
$(VENV)/.needs: FORCE
	@mkdir -p $(VENV); \
	{ sed '/^\[tool\.ruff\]/,$$d' pyproject.toml; cat constraints.txt hatch_build.py panbench/panoptic/idmap.c; } | cksum >$@.new; \
	if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

FORCE:

# --no-compile: pip would compile all 12,000 modules, three times the work of installing them; Python compiles those that are
# imported, a third, when they first are. Where Python is told to keep no bytecode (as in many containers) each command would compile
# them again, half of the time of a short `eval`: there they are imported once, and kept.
# pip first: the one that comes with Python 3.11 spends a quarter more CPU time on all this. Where no newer one can be had, it does.
# The stamps are written last, so an interrupted install is taken up again; a finished one needs neither pip nor a network.
$(VENV)/.installed: $(VENV)/.needs
	@if ! $(BIN)/python $(FITS) >/dev/null 2>&1 || ! $(BIN)/python -c 'import pip' >/dev/null 2>&1; then \
	    chosen=; \
	    if [ -n "$(PYTHON)" ]; then \
	        if "$(PYTHON)" $(FITS) >/dev/null 2>&1; then chosen="$(PYTHON)"; fi; \
	    else \
	        for candidate in $(CANDIDATES); do \
	            if $$candidate $(FITS) >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	        done; \
	    fi; \
	    if [ -z "$$chosen" ]; then \
	        echo "panbench needs Python 3.10, 3.11, 3.12 or 3.13 with venv (Debian and Ubuntu: apt-get install python3-venv);" >&2; \
	        echo "none was found as $(if $(PYTHON),$(PYTHON),$(CANDIDATES)). Name one: make install PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$("$$chosen" --version)"; \
	    "$$chosen" -m venv $(VENV); \
	fi
	@$(PIP) install --no-compile --quiet 'pip>=26' || echo "No newer pip could be had: installing with the one that is here"
	$(PIP) install --no-compile --constraint constraints.txt --editable '.[models]'
	@if [ -n "$$PYTHONDONTWRITEBYTECODE" ]; then \
	    echo "Compiling what models need, since PYTHONDONTWRITEBYTECODE is set"; \
	    env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'from panbench.base import program; program.begin(); \
	        import panbench.evaluation.evaluate; from panbench.catalog import find_model; \
	        from panbench.models.opening import open_model; open_model(find_model("mask2former-tiny"), weights="random")'; \
	fi
	@touch $@

# Compiled on all cores: else each of the tests' workers compiles the same 120 MB of sources at the same time, when it imports them.
NOT_IMPORTED := /(tests?|testing|_vendor|debugpy|pip|setuptools|pygments|transformers/models)/

# panopticapi-lite is the reference that PQ is held against; its dependencies are an older numpy and what we do not need.
$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --no-compile --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --no-compile --constraint constraints.txt --no-deps panopticapi-lite
	@echo "Compiling what tests import"
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 0 -x '$(NOT_IMPORTED)' \
	    "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || \
	    echo "Not all could be compiled, see above: Python compiles what is left when it is imported"
	@touch $@

# The models of the page of docs, whichever extras are installed. Another list: make demo DEMO_MODELS=eomt-tiny,oneformer-tiny
DEMO_MODELS ?= panoptic-fpn-tiny,maskformer-tiny,mask2former-tiny

demo: install
	$(BIN)/panbench eval --model $(DEMO_MODELS) --data shapes --out results/demo --overwrite

# mypy has one process and runs beside the tests. Every check runs, so that one look shows all that is wrong; pytest's closing
# line comes last. Files are shared out, slow ones first (tests/conftest.py), as tests of a file may share a browser or a server.
# make test WORKERS=0 runs all in one process.
WORKERS ?= auto
test: $(VENV)/.dev
	@status=0; \
	{ $(BIN)/ruff check . && $(BIN)/ruff format --check .; } || status=1; \
	$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS) || status=1; \
	wait $$types || status=1; \
	if [ $$status -ne 0 ]; then echo "make test: not all checks passed, see above" >&2; fi; \
	exit $$status

# What needs neither PyTorch, nor a model, nor a browser.
QUICK := $(addprefix tests/,base panoptic metrics runs scoring datasets cli/test_help.py cli/test_words.py cli/test_request.py \
	report/test_grid.py report/test_colors.py report/test_verdict.py test_catalog.py test_headlines.py test_layering.py test_repository.py test_site.py)

quick: $(VENV)/.dev
	@status=0; \
	{ $(BIN)/ruff check . && $(BIN)/ruff format --check .; } || status=1; \
	$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --light -m "not slow" --ignore tests/scoring/test_torchmetrics.py $(QUICK) $(ARGS) || status=1; \
	wait $$types || status=1; \
	if [ $$status -ne 0 ]; then echo "make quick: not all checks passed, see above" >&2; fi; \
	exit $$status

# In an environment of its own on top of .venv: what object stores need holds other packages at older versions than constraints.txt.
ENGINES := .venv-engines

$(ENGINES)/.installed: $(VENV)/.dev
	$(BIN)/python -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip --disable-pip-version-check install 'ray>=2.40' s3fs 'moto[server,s3]'
	$(ENGINES)/bin/python -c 'import pathlib, sysconfig; \
	    (pathlib.Path(sysconfig.get_path("purelib")) / "below.pth").write_text(next(map(str, pathlib.Path("$(VENV)").absolute().glob("lib/*/site-packages"))))'
	@touch $@

engines: $(ENGINES)/.installed
	$(ENGINES)/bin/python -m pytest -n 0 -m "ray or s3" $(ARGS) tests/datasets/test_object_store.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Those that need no GPU and nothing outside of the repository. They measure CPU time of both sides in turn, so a busy machine
# widens the range more than it moves the ratio. make benchmarks ONLY=score,metrics runs some.
BENCHMARKS := score score_memory patch metrics bootstrap report data_check fetch fuse rules kept_hashes memory \
	start serve serve_lists against_transformers
COMMA := ,
ONLY := $(BENCHMARKS)

benchmarks: $(VENV)/.dev
	@for name in $(subst $(COMMA), ,$(ONLY)); do echo "$$name" >&2; $(BIN)/python scripts/bench/$$name.py --write || exit 1; done
	$(BIN)/python scripts/make/benchmark_tables.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation, strictly: a broken link or a page that none leads to fails. Light: the commands' reference needs no model.
DOCS := .venv-docs

$(DOCS)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv $(DOCS)
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
