# Linux and macOS, any make. On Windows `pip install -c constraints.txt -e ".[models]"` does what `make install` does.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The Python that .venv is made with, one that panbench runs on: make install PYTHON=/path/to/python3.12
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3.10 python3 python
FITS := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))
# Containers often set it: every process of the tests would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo quick test floors colab engines benchmarks docs lint format
help:
	@echo "make install      make .venv with the command .venv/bin/panbench"
	@echo "make demo         run three small models on generated scenes and compare them"
	@echo "make quick        lint, types, and the tests that need neither a model nor a browser: while you write"
	@echo "make test         lint, types and tests (ARGS='-k pq': some tests); make lint, make format: that alone"
	@echo "make engines      the tests that start clusters and object stores on this machine"
	@echo "make floors       the quick tests on the oldest versions that pyproject.toml allows; make colab runs the notebook on Colab's"
	@echo "make benchmarks   benchmarks that need no GPU, into results/benchmarks and the tables of docs (ONLY='score metrics': some)"
	@echo "make docs         the documentation as a site, in build/site"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py panbench/panoptic/idmap.c
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in $(PYTHON); do \
	        if $$python -c '$(FITS)' 2>/dev/null; then $$python -m venv $(VENV) && exit; fi; \
	    done; \
	    echo "panbench needs Python 3.10 or newer with venv (Debian and Ubuntu: apt-get install python3-venv);" >&2; \
	    echo "none was found as $(PYTHON). Name one: make install PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	}
	$(PIP) install --constraint constraints.txt --editable '.[models]'
	@touch $@

# panopticapi-lite is the reference that PQ is held against; it requires an older NumPy, and other packages that are not needed.
$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --editable '.[dev,docs]'
	$(PIP) install --constraint constraints.txt --no-deps panopticapi-lite
	@touch $@

demo: install
	$(BIN)/panbench eval --model panoptic-fpn-tiny,maskformer-tiny,mask2former-tiny --data shapes --out results/demo --overwrite

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# By file, as the tests of a file may share a browser or a server.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

test: lint
	$(PYTEST) $(ARGS)

QUICK := $(addprefix tests/,base panoptic metrics runs scoring datasets cli/test_help.py cli/test_words.py cli/test_request.py \
	report/test_grid.py report/test_colors.py report/test_verdict.py test_catalog.py test_headlines.py test_layering.py test_repository.py test_site.py)

quick: lint
	$(PYTEST) -q --light -m "not slow" --ignore tests/scoring/test_torchmetrics.py $(QUICK) $(ARGS)

floors colab: $(VENV)/.dev
	$(BIN)/python scripts/check/versions.py $@ $(QUICK)

# An environment of its own on top of .venv: what object stores need holds other packages at older versions.
.venv-engines/.installed: $(VENV)/.dev
	$(BIN)/python -m venv .venv-engines
	.venv-engines/bin/python -m pip --disable-pip-version-check install 'ray>=2.40' s3fs 'moto[server,s3]'
	.venv-engines/bin/python -c 'import pathlib, sysconfig; \
	    (pathlib.Path(sysconfig.get_path("purelib")) / "below.pth").write_text(next(map(str, pathlib.Path("$(VENV)").absolute().glob("lib/*/site-packages"))))'
	@touch $@

engines: .venv-engines/.installed
	.venv-engines/bin/python -m pytest -n 0 -m "ray or s3" $(ARGS) tests/datasets/test_object_store.py tests/studies/on_ray

BENCHMARKS := score score_memory patch metrics intervals report fuse rules memory \
	start serve
ONLY := $(BENCHMARKS)

benchmarks: $(VENV)/.dev
	@for name in $(ONLY); do echo "$$name" >&2; $(BIN)/python scripts/bench/$$name.py --write || exit 1; done
	$(BIN)/python scripts/make/benchmark_tables.py

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
