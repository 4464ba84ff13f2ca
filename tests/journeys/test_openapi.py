"""The server against its own OpenAPI document: generated requests, good and bad, over real HTTP.

What is generated is the same in every run. PERDURE_TEST_EXAMPLES sets how many requests each operation gets beyond the
systematic ones.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from perdure import __version__
from perdure.api.openapi import build_document
from perdure.settings import Settings
from perdure.wiring import all_routes
from tests.server import Server

EXAMPLES = int(os.environ.get("PERDURE_TEST_EXAMPLES", "10"))

LEFT_OUT = {"stream_sse": "its answers do not end; tests/journeys has its own tests of the stream"}

DOCUMENT = build_document(all_routes(Settings(), asyncio.Event(), lambda: 0), __version__)


def _tested_document() -> dict[str, Any]:
    """The document without what one server in one organization cannot vary."""
    paths = {
        path: {method: operation for method, operation in item.items() if operation["operationId"] not in LEFT_OUT}
        for path, item in DOCUMENT["paths"].items()
    }
    for item in paths.values():
        for method, operation in item.items():
            parameters = operation.get("parameters", [])
            kept = [each for each in parameters if each.get("$ref") != "#/components/parameters/Organization"]
            item[method] = {**operation, "parameters": kept}
    return {**DOCUMENT, "paths": {path: item for path, item in paths.items() if item}, "servers": [{"url": "/"}]}


load_all_checks()
SCHEMA = schemathesis.openapi.from_dict(
    _tested_document(),
    config=SchemathesisConfig(
        seed=1,
        projects=ProjectsConfig(
            default=ProjectConfig(
                # Parameters that nobody knows are ignored, so they are no bad input.
                generation=GenerationConfig(
                    max_examples=EXAMPLES,
                    deterministic=True,
                    database="none",
                    allow_extra_parameters=False,
                    with_security_parameters=False,
                )
            )
        ),
    ),
)


class Served(NamedTuple):
    """A running server that asks for a token, and one that it accepts."""

    url: str
    headers: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of this module's own."""
    data = tmp_path_factory.mktemp("openapi") / "data"
    made = subprocess.run(
        [sys.executable, "-m", "perdure.cli", "keys", "create", "--data", data], capture_output=True, text=True, check=True
    )
    server = Server(data)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        token = {"Authorization": f"Bearer {made.stdout.strip()}"}
        organizations = httpx.get(f"{server.url}/v1/orgs", headers=token).json()["data"]
        # Requests make more organizations: from then on it has to be said which.
        yield Served(server.url, {**token, "X-Org-Id": organizations[0]["id"]})
        assert runner.run(server.stop()) == 0


def test_what_is_served_is_what_is_tested(served: Served) -> None:
    assert httpx.get(f"{served.url}/api-doc/openapi.json").json() == DOCUMENT


# That two fields exclude each other, say, is beyond these schemas: a good request may break a rule.
NOT_HELD_AGAINST_IT = [positive_data_acceptance]


@SCHEMA.parametrize()
def test_the_server_does_what_its_document_says(case: schemathesis.Case, served: Served) -> None:
    case.call_and_validate(base_url=served.url, headers=served.headers, excluded_checks=NOT_HELD_AGAINST_IT)
