# Everything a developer or CI runs. Needs a Python of docs/supported.md, and PYTHON=3.12 make ...
# asks for one; locks/environment.py finds it and the lock that goes with it. uv is installed under
# .tools when it isn't there, and the locked environment under .venv.

VENV := .venv
RUN := $(VENV)/bin/python
LOCKED := $(VENV)/.locked
# The tests that need nothing but the locked environment.
ALONE := "not arm64 and not bases and not peers and not cluster and not image and not lines"
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)

.PHONY: setup demo test test-smoke test-newer test-bases test-peers test-kubeflow test-image test-trixie \
    test-arm64 test-scale image check format bench lock clean help $(LOCKED)

help:
	@echo "make setup        the locked environment in .venv, and nothing else"
	@echo "make demo         the whole path on real images: ingest, train, judge, sign, predict"
	@echo "make test         checks and tests; needs nothing but the locked environment"
	@echo "make test-newer   a part of them and the demo with the newer TFX, in a Debian 13 that it installs"
	@echo "                   (as root); make test-trixie: all of them, and both lines beside each other"
	@echo "make test-bases   every base through a whole run: trained, searched, converted and judged"
	@echo "make test-peers   tests against outside programs, which it installs (as root); given VAULT_ADDR= and"
	@echo "                   VAULT_TOKEN= of a Vault, and TUF_CONFORMANCE= of that suite's checkout, with them"
	@echo "make test-kubeflow the pipeline in a simulated Kubeflow, step by step; given the paths DRIVER="
	@echo "                   and LAUNCHER=, by Kubeflow's own programs (kubeflow/INSIDE.md)"
	@echo "make test-image   build the steps' image and run a step in it (as root)"
	@echo "make test-arm64   the device package in a Debian 12 for 64-bit ARM that it installs (as root)"
	@echo "make test-scale   60,000 photos through ingest and run, with the memory and time of each step"
	@echo "make image        build the steps' image with Docker, Podman or Buildah"
	@echo "make check        lint, format and types"
	@echo "make format       apply the formatter and the linter's fixes"
	@echo "make bench        print the benchmarks' ratios"
	@echo "make lock         resolve the dependencies anew"
	@echo "make clean        remove the environment and everything the demo made"

setup: $(LOCKED)
	@echo "the environment is in $(VENV): . $(VENV)/bin/activate"

demo: $(LOCKED)
	@$(RUN) -m pipeline.demo $(ARGS)

test: check
	$(RUN) -m pytest -m $(ALONE) --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# What depends most on the versions of TFX and Python.
test-smoke: $(LOCKED)
	$(RUN) -m pytest -m $(ALONE) tests/lines tests/components tests/pipeline/orchestration/test_run.py --numprocesses 2 --dist loadfile $(ARGS)

test-newer:
	tests/debian.sh trixie make test-smoke
	tests/debian.sh trixie make demo

# Eleven runs, one after another.
test-bases: $(LOCKED)
	$(RUN) -m pytest -m bases tests/pipeline/training $(ARGS)

# Variables of the command line are in the environment of what is run.
test-kubeflow: $(LOCKED) $(if $(DRIVER),.tools/moto/.locked)
	$(RUN) -m pytest -m cluster tests/kubeflow --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

image:
	python3 kubeflow/build_image.py $(ARGS)

test-image: $(LOCKED)
	tests/image/install.sh
	$(RUN) -m pytest -m image tests/image $(ARGS)

# The suite and the demo on the newer line, then both lines beside each other.
test-trixie: $(LOCKED)
	tests/debian.sh trixie make test
	tests/debian.sh trixie make demo
	$(RUN) -m pipeline.demo
	$(RUN) -m pytest -m lines tests/lines $(ARGS)

# What x86-64 made of the demo's model, on an emulated arm64: below .tools/arm64, which is / there. Then
# the device package's tests of what differs with the processor, but for those that need TensorFlow, and
# one of a limit that QEMU does not set.
ON_ARM64 := tests/debian.sh arm64 tests/arm64/run.sh /made
FIT_ARM64 := -m "not peers" -k "not tensorflow and not training_side and not memory_runs_out" \
    $(addprefix tests/edge/test_,$(addsuffix .py,attacks classifier contract golden packed \
    preprocessing reader threads update))
test-arm64: $(LOCKED)
	$(RUN) -m pipeline.demo
	tests/debian.sh arm64 true
	TF_CPP_MIN_LOG_LEVEL=3 $(RUN) -m tests.arm64.make .tools/arm64/made
	$(ON_ARM64) -m arm64 tests/arm64
	QEMU_CPU=cortex-a76 $(ON_ARM64) -m arm64 tests/arm64
	$(ON_ARM64) $(FIT_ARM64)

test-scale: $(LOCKED)
	$(RUN) -m benchmarks.scale --images 60000 $(ARGS)

# Variables of the command line are in the environment of what is run.
test-peers: $(LOCKED) .tools/kfp/.locked
	tests/peers/install.sh
	$(RUN) -m pytest -m peers tests/edge tests/peers $(ARGS)

check: $(LOCKED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(LOCKED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(LOCKED)
	$(RUN) -m benchmarks

# Phony: which Python and which lock it takes may differ from the last time.
$(LOCKED): | $(UV)
	@python3 locks/environment.py $(UV)

.tools/uv/bin/uv: locks/uv.txt
	python3 -m venv .tools/uv
	.tools/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	@touch $@

# Kubeflow's client, whose protobuf is not TFX's.
.tools/kfp/.locked: locks/kfp.txt | $(LOCKED)
	$(UV) venv --quiet --allow-existing --python $(RUN) .tools/kfp
	$(UV) pip sync --quiet --python .tools/kfp/bin/python --require-hashes locks/kfp.txt
	@touch $@

# An S3 server, for Kubeflow's programs.
.tools/moto/.locked: locks/moto.txt | $(LOCKED)
	$(UV) venv --quiet --allow-existing --python $(RUN) .tools/moto
	$(UV) pip sync --quiet --python .tools/moto/bin/python --require-hashes locks/moto.txt
	@touch $@

# The paths are relative so that no lock names a machine.
COMPILE = $(UV) pip compile --quiet --upgrade --generate-hashes --no-annotate
PY310 := --python-version 3.10
# For every Python from 3.11 on.
PY311 := --python-version 3.11 --universal
WITH_TESTS := --extra demo --extra dev --no-emit-package edgeline-registry pyproject.toml

lock: | $(UV)
	$(COMPILE) $(PY310) $(WITH_TESTS) --output-file locks/tfx-1.16.txt
	$(COMPILE) $(PY311) $(WITH_TESTS) --output-file locks/tfx-1.21.txt
	$(COMPILE) $(PY310) --constraint locks/tfx-1.16.txt edge/pyproject.toml \
	    --output-file locks/edge.txt
	$(COMPILE) $(PY311) --constraint locks/tfx-1.21.txt --no-emit-package edgeline-registry \
	    pyproject.toml --output-file locks/image.txt
	printf 'kfp>=2.17,<3\nkfp-kubernetes\nkubernetes-validate\n' | $(COMPILE) $(PY310) - \
	    --output-file locks/kfp.txt
	printf 'moto[s3]\nflask\nflask-cors\n' | $(COMPILE) $(PY310) - --output-file locks/moto.txt
	echo uv | $(COMPILE) $(PY310) - --output-file locks/uv.txt

clean:
	rm -rf $(VENV) .tools demo runs .mypy_cache .pytest_cache .ruff_cache
