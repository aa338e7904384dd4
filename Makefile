# Each target sets up what it needs in .venv, with Python 3.10 or newer, a C compiler and the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
C_FILES := $(wildcard src/*.[ch] src/isa/*.[ch] src/kernels/*.h src/kernels/*.inc)

.PHONY: demo test test-parity test-sanitize test-clang bench lint format asm wheel docs clean

# New memory is filled with large numbers: a kernel that forgets to write some of its result is found out.
test test-parity: export MALLOC_PERTURB_ := 128

demo: $(VENV)/installed ## train the tutorial's Net on real digits
	$(BIN)/fastconv train

test: $(VENV)/test ## every test but those that want PyTorch
	$(BIN)/python -m pytest --numprocesses auto

test-parity: $(VENV)/parity ## the same numbers as PyTorch
	$(BIN)/python -m pytest tests/parity

test-sanitize: $(VENV)/test ## the tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	BIN=$(BIN) tools/test_sanitized

test-clang: $(VENV)/test ## the tests of the kernels on a build by Clang
	BIN=$(BIN) tools/test_clang

bench: $(VENV)/bench ## fastconv beside PyTorch, JAX, ONNX Runtime, OpenVINO, ncnn and MNN: benchmarks/RESULTS.md and README.md
	$(BIN)/python benchmarks/run.py --write benchmarks/RESULTS.md --readme

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

format: $(VENV)/lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_FILES)

asm: $(VENV)/installed ## the inner loop of the micro-kernel, as compiled
	tools/show_tile

wheel: $(VENV)/created
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build --wheel

docs: $(VENV)/docs
	$(BIN)/python docs/build_tutorial.py
	$(BIN)/python docs/accuracy.py
	$(BIN)/python docs/training_with_winograd.py

clean:
	rm -rf build dist *.egg-info $(VENV) fastconv/*.so .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# ---- the virtual environment, in layers ----

SOURCES := setup.py pyproject.toml fastconv/kernels.pyx $(wildcard fastconv/door/*.pxi) src/kernels.def $(C_FILES) \
	$(wildcard src/isa/*.c)

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit("fastconv wants Python 3.10 or newer") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV) || { echo "no venv: on Debian and Ubuntu, apt install python3-venv python3-dev"; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip 'setuptools>=77' wheel 'cython>=3.1' 'numpy>=2.0'
	touch $@

$(VENV)/installed: $(VENV)/created $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable .
	touch $@

$(VENV)/test: $(VENV)/installed
	$(BIN)/pip install --quiet $$($(BIN)/python tools/extra.py test)
	touch $@

$(VENV)/parity: $(VENV)/test
	$(BIN)/pip install --quiet torch==2.13.0
	touch $@

$(VENV)/bench: $(VENV)/parity
	$(BIN)/pip install --quiet $$($(BIN)/python tools/extra.py bench) || \
		echo "not all that fastconv is compared with can be installed here: the run leaves out what is missing"
	touch $@

$(VENV)/lint: $(VENV)/created
	$(BIN)/pip install --quiet ruff==0.17.6 clang-format==23.1.5
	touch $@

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet $$($(BIN)/python tools/extra.py docs)
	touch $@
