#!/bin/sh
# Installs the core alone into the virtual environment PREFIX, from the checkout SOURCE: no lab, no JupyterLab, no PostgreSQL
# server. Every package is pinned by hash; the wheel holds the runbooks. The Containerfile runs it, and so does a test.
set -eu
source=$1
prefix=$2
python=${PYTHON:-python3}

"$python" -m venv "$prefix"
pip() { "$prefix/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install --no-deps --require-hashes -r "$source/deploy/image/requirements.txt"

# The backend that builds the wheel is pinned as well, and not kept.
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"$python" -m venv "$build/venv"
"$build/venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r "$source/deploy/image/build-requirements.txt"
"$build/venv/bin/python" -m pip --disable-pip-version-check --quiet wheel --no-deps --no-build-isolation -w "$build" "$source"
pip install --no-deps "$build"/drillbook-*.whl

rm -rf "$prefix"/lib/python*/site-packages/drillbook_lab "$prefix"/lib/python*/site-packages/pip "$prefix"/lib/python*/site-packages/pip-*
