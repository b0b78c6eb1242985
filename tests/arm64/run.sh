#!/bin/sh
# On arm64: installs edgeline, with what tests publish by, and runs tests: run.sh FOLDER PYTEST-OPTIONS
#
# FOLDER is what tests/arm64/make.py made on x86-64.
set -eu
export MADE=$1 EDGELINE_TEST_MODELS=$1/models
shift
venv=/opt/edgeline

if ! cmp --silent edge/registry/pyproject.toml "$venv/installed-for"; then
    python3 -m venv --clear "$venv"
    # The lock's versions; not their hashes, which pip would demand of the checkout's folder, too.
    sed '/--hash=/d; s/ \\$//' locks/tfx-1.21.txt >"$venv/constraints"
    "$venv/bin/pip" install --constraint "$venv/constraints" './edge/registry[device,heif]' pillow-heif pytest
    cp edge/registry/pyproject.toml "$venv/installed-for"
else
    "$venv/bin/pip" install --quiet --no-deps ./edge/registry
fi

"$venv/bin/python" -m pytest "$@"
