"""The protocol's own conformance suite, with our client."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests import mcp_peers
from tests.mcp_peers import CONFORMANCE, node, require

CLIENT = str(Path(mcp_peers.__file__).with_name("mcp_conformance_client.py"))
SAMPLE = [
    ("2025-11-25", "initialize"),
    ("2025-11-25", "sse-retry"),
    ("2026-07-28", "tools_call"),
    ("2026-07-28", "http-standard-headers"),
    ("2026-07-28", "auth/iss-wrong-issuer"),
]
"""What `make test` runs; the soak runs all."""
SCENARIOS = [
    ("2025-11-25", "initialize"),
    ("2025-11-25", "tools_call"),
    ("2025-11-25", "sse-retry"),
    ("2026-07-28", "tools_call"),
    ("2026-07-28", "request-metadata"),
    ("2026-07-28", "sep-2322-client-request-state"),
    ("2026-07-28", "http-standard-headers"),
    ("2026-07-28", "http-custom-headers"),
    ("2026-07-28", "http-invalid-tool-headers"),
    ("2026-07-28", "json-schema-ref-no-deref"),
]
SIGN_INS = [
    *(
        ("2025-11-25", f"auth/{name}")
        for name in (
            *("metadata-default", "metadata-var1", "metadata-var2", "metadata-var3", "basic-cimd"),
            *("scope-from-www-authenticate", "scope-from-scopes-supported", "scope-omitted-when-undefined"),
            *("scope-step-up", "scope-retry-limit", "pre-registration"),
            *("token-endpoint-auth-basic", "token-endpoint-auth-post", "token-endpoint-auth-none"),
        )
    ),
    *(
        ("2026-07-28", f"auth/{name}")
        for name in (
            *("resource-mismatch", "offline-access-scope", "offline-access-not-supported"),
            *("authorization-server-migration", "metadata-issuer-mismatch", "scope-step-up"),
            *("iss-supported", "iss-not-advertised", "iss-supported-missing", "iss-wrong-issuer"),
            *("iss-unexpected", "iss-normalized"),
        )
    ),
    ("2025-03-26", "auth/2025-03-26-oauth-metadata-backcompat"),
    ("2025-03-26", "auth/2025-03-26-oauth-endpoint-fallback"),
    ("extension", "auth/client-credentials-basic"),
]
# The suite waits for the answer to a question in the call that asks it. Ours is ended, and made again with
# the answer, which may come days later. The five checks of the answers themselves pass.
WITH_ONE_DIFFERENCE = [("2025-11-25", "elicitation-sep1034-client-defaults")]


@pytest.mark.parametrize(
    ("revision", "scenario"),
    [
        pytest.param(*each, marks=() if each in SAMPLE else pytest.mark.soak)
        for each in (*SCENARIOS, *WITH_ONE_DIFFERENCE, *SIGN_INS)
    ],
)
async def test_the_client_passes(revision: str, scenario: str, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, CLIENT])
    process = await asyncio.create_subprocess_exec(
        str(node()), str(require(CONFORMANCE)), "client", "--command", command, "--scenario", scenario,
        *(("--force",) if revision == "extension" else ("--spec-version", revision)), "-o", str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}, cwd=tmp_path,
    )  # fmt: skip
    output = (await process.communicate())[0].decode()
    found = re.search(r"Passed: (\d+)/(\d+), (\d+) failed, (\d+) warnings", output)
    assert found is not None, output
    passed, _, failed, warnings = map(int, found.groups())
    assert passed >= 1, output
    assert (failed, warnings) == (int((revision, scenario) in WITH_ONE_DIFFERENCE), 0), output
