# Everything a developer or CI runs. Needs Python 3.10 (see .python-version) and nothing else:
# uv is installed under .tools when it isn't there, and the locked environment under .venv.

VENV := .venv
PYTHON := $(VENV)/bin/python
LOCK := locks/py310.txt
LOCKED := $(VENV)/.locked
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)

.PHONY: demo test test-peers test-kubeflow test-image image check format bench lock clean help

help:
	@echo "make demo         the whole path on real images: ingest, train, judge, sign, predict"
	@echo "make test         checks and tests; needs nothing but the locked environment"
	@echo "make test-peers   tests against outside programs, which it installs (as root)"
	@echo "make test-kubeflow the pipeline in a simulated Kubeflow, step by step"
	@echo "make test-image   build the steps' image and run a step in it (as root)"
	@echo "make image        build the steps' image with Docker, Podman or Buildah"
	@echo "make check        lint, format and types"
	@echo "make format       apply the formatter and the linter's fixes"
	@echo "make bench        print the benchmarks' ratios"
	@echo "make lock         resolve the dependencies anew"
	@echo "make clean        remove the environment and everything the demo made"

demo: $(LOCKED)
	@$(PYTHON) -m pipeline.demo $(ARGS)

test: check
	$(PYTHON) -m pytest -m "not peers and not cluster and not image" --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-kubeflow: $(LOCKED)
	$(PYTHON) -m pytest -m cluster tests/kubeflow --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

image:
	python3 kubeflow/build_image.py $(ARGS)

test-image: $(LOCKED)
	tests/image/install.sh
	$(PYTHON) -m pytest -m image tests/image $(ARGS)

test-peers: $(LOCKED) .tools/kfp/.locked
	tests/peers/install.sh
	$(PYTHON) -m pytest -m peers tests/edge tests/peers $(ARGS)

check: $(LOCKED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(LOCKED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(LOCKED)
	$(PYTHON) -m benchmarks

$(LOCKED): $(LOCK) pyproject.toml edge/pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV)
	$(UV) pip sync --python $(PYTHON) --require-hashes $(LOCK)
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --editable . --editable edge
	@touch $@

.tools/uv/bin/uv: locks/uv.txt
	python3 -m venv .tools/uv
	.tools/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	@touch $@

# Kubeflow's client, whose protobuf is not TFX's.
.tools/kfp/.locked: locks/kfp.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" .tools/kfp
	$(UV) pip sync --quiet --python .tools/kfp/bin/python --require-hashes locks/kfp.txt
	@touch $@

# The paths are relative so that no lock names a machine.
lock: | $(UV)
	$(UV) pip compile --quiet --upgrade --generate-hashes --python-version 3.10 \
	    --extra demo --extra dev --no-emit-package edgeline --no-annotate \
	    pyproject.toml --output-file $(LOCK)
	$(UV) pip compile --quiet --upgrade --generate-hashes --python-version 3.10 --no-annotate \
	    --constraint $(LOCK) edge/pyproject.toml --output-file locks/edge.txt
	$(UV) pip compile --quiet --upgrade --generate-hashes --python-version 3.10 --no-annotate \
	    --no-emit-package edgeline --constraint $(LOCK) pyproject.toml \
	    --output-file locks/image.txt
	printf 'kfp>=2.17,<3\nkfp-kubernetes\nkubernetes-validate\n' | $(UV) pip compile --quiet --upgrade \
	    --generate-hashes --python-version 3.10 --no-annotate - --output-file locks/kfp.txt
	echo uv | $(UV) pip compile --quiet --upgrade --generate-hashes --python-version 3.10 \
	    --no-annotate - --output-file locks/uv.txt

clean:
	rm -rf $(VENV) .tools demo runs .mypy_cache .pytest_cache .ruff_cache
