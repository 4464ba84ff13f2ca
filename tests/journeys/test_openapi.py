"""The server against its own OpenAPI document: generated requests, good and bad, over real HTTP.

What is generated is the same in every run.
"""

from __future__ import annotations

import asyncio
import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from perdure import __version__
from perdure.api.openapi.document import build_document
from perdure.settings import Settings
from perdure.wiring import all_routes
from tests.server import Server
from tests.soak import SCALE, SOAKING

# The server is measured; to generate requests under measurement is slow. The soak makes more of them.
pytestmark = [pytest.mark.no_cover, *([pytest.mark.soak] if SOAKING else [])]

EXAMPLES = 20 * SCALE if SOAKING else 2
"""How many requests each operation gets beyond the systematic ones."""

LEFT_OUT = {
    "stream_sse": "its answers do not end; the stream has tests of its own",
    "delete_account": "if it succeeds, no user is left to make requests",
    "sync_models": "it calls the provider's address and passes on its errors; it has tests of its own",
}

DOCUMENT = build_document(all_routes(Settings(), asyncio.Event(), lambda: 0), __version__)


def _tested_document() -> dict[str, Any]:
    """Return the document without the header that selects an organization: the tests stay in one.

    It is a copy in full: walking through chains of requests writes links into it.
    """
    document = copy.deepcopy(DOCUMENT)
    paths = {
        path: {
            method: {
                **operation,
                "parameters": [
                    each
                    for each in operation.get("parameters", ())
                    if each.get("$ref") != "#/components/parameters/Organization"
                ],
            }
            for method, operation in item.items()
        }
        for path, item in document["paths"].items()
    }
    return {**document, "paths": paths, "servers": [{"url": "/"}]}


load_all_checks()
SCHEMA = schemathesis.openapi.from_dict(
    _tested_document(),
    config=SchemathesisConfig(
        seed=1,
        projects=ProjectsConfig(
            default=ProjectConfig(
                # Unknown parameters are ignored, so they are not bad input.
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
).exclude(operation_id=list(LEFT_OUT))


def _operations(schema: BaseSchema) -> list[Any]:
    """List the operations as parameters of a test."""
    found = [each.ok() for each in schema.get_all_operations()]
    return [pytest.param(each, id=each.label) for each in found]


def _check_operation(operation: APIOperation, check: Callable[[schemathesis.Case], None]) -> None:
    """Generate the requests of one operation and check each answer.

    `SCHEMA.parametrize()` generates them when tests are collected, in every worker: for all operations, that
    takes longer than to send them.
    """

    def checked(case: schemathesis.Case) -> None:
        check(case)

    build_operation_test(
        config=SCHEMA.config,
        operation=operation,
        test_func=checked,
        given_kwargs={},
        feedback=FeedbackSources(),
    )()


class Served(NamedTuple):
    """A running server that requires a token, and a token that it accepts."""

    url: str
    headers: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of this module's own."""
    data = tmp_path_factory.mktemp("openapi") / "data"
    made = subprocess.run(
        [sys.executable, "-m", "perdure", "keys", "create", "--data", data],
        capture_output=True,
        text=True,
        check=True,
    )
    server = Server(data)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        token = {"Authorization": f"Bearer {made.stdout.strip()}"}
        organizations = httpx.get(f"{server.url}/v1/orgs", headers=token).json()["data"]
        # Requests create more organizations; after that each request must name one.
        yield Served(server.url, {**token, "X-Org-Id": organizations[0]["id"]})
        assert runner.run(server.stop()) == 0


def test_what_is_served_is_what_is_tested(served: Served) -> None:
    assert httpx.get(f"{served.url}/api-doc/openapi.json").json() == DOCUMENT


# The schemas cannot express every rule (that two fields exclude each other, for one), so a request that is
# valid by its schema may still be refused.
NOT_HELD_AGAINST_IT = [positive_data_acceptance]


@pytest.mark.parametrize("operation", _operations(SCHEMA))
def test_the_server_does_what_its_document_says(operation: APIOperation, served: Served) -> None:
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(
            base_url=served.url, headers=served.headers, excluded_checks=NOT_HELD_AGAINST_IT
        )

    _check_operation(operation, check)


class Things:
    """Real resources, one of each kind, created on demand and again after they are deleted."""

    def __init__(self, served: Served) -> None:
        self._http = httpx.Client(base_url=served.url, headers=served.headers, timeout=30)
        self._known: dict[str, str] = {"org": served.headers["X-Org-Id"]}
        self._count = 0

    def close(self) -> None:
        self._http.close()

    def made(self, path: str, body: dict[str, Any]) -> str:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def id(self, kind: str) -> str | None:
        """Return the id of a resource of a kind; None for a kind that this class cannot create."""
        if kind not in self._known:
            self._count += 1
            match kind:
                case "agent":
                    made = self.made(
                        "/v1/agents", {"name": f"thing-{self._count}", "system_prompt": "You help."}
                    )
                case "harness":
                    made = self.made("/v1/harnesses", {"name": f"thing-{self._count}"})
                case "provider":
                    made = self.made("/v1/providers", {"name": "Thing", "provider_type": "llmsim"})
                case "model":
                    made = self.made(
                        f"/v1/providers/{self.id('provider')}/models",
                        {"model_id": "llmsim", "display_name": "Thing"},
                    )
                case "session":
                    self.id("model")
                    made = self.made("/v1/sessions", {"title": "Thing", "tags": ["thing"]})
                    self.made(
                        f"/v1/sessions/{made}/messages",
                        {"message": {"content": [{"type": "text", "text": SCRIPT}]}},
                    )
                case "workspace":
                    made = self.made("/v1/workspaces", {"name": f"thing-{self._count}"})
                    self.made(f"/v1/workspaces/{made}/fs/notes.md", {"content": "noted"})
                case _:
                    return None
            self._known[kind] = made
        return self._known[kind]

    def forget(self, kind: str) -> None:
        """Forget a deleted resource, and all within it."""
        for gone in ("provider", "model") if kind == "provider" else (kind,):
            self._known.pop(gone, None)


SCRIPT = (
    'Do it. [[sim [{"text": "I look.", "tool_calls": [{"name": "get_current_time"}, {"name": "nonsense"},'
    ' {"name": "write_file", "arguments": {"path": "/notes.md", "content": "noted"}}]}, {"text": "Done."}]]]'
)


@pytest.fixture(scope="module")
def things(served: Served) -> Iterator[Things]:
    made = Things(served)
    yield made
    made.close()


def _kinds(case: schemathesis.Case) -> dict[str, str]:
    """The kind of each id in the path: `{"session_id": "session"}`."""
    found = {}
    for parameter in case.operation.definition.raw.get("parameters", ()):
        kind = re.match(r"\^\(?([a-z]+)_\[0-9a-f\]\{32\}", parameter.get("schema", {}).get("pattern", ""))
        if parameter.get("in") == "path" and kind is not None:
            found[parameter["name"]] = kind[1]
    return found


@pytest.mark.parametrize(
    "operation",
    _operations(
        SCHEMA.include(path_regex="_?id}").exclude(operation_id=["revoke_token", "create_user_token"])
    ),
)
def test_and_so_it_does_with_what_there_is(operation: APIOperation, served: Served, things: Things) -> None:
    def check(case: schemathesis.Case) -> None:
        kinds = _kinds(case)
        for name, kind in kinds.items():
            # A value that was generated as an invalid id stays.
            if re.fullmatch(rf"{kind}_[0-9a-f]{{32}}", str(case.path_parameters[name])) and (
                known := things.id(kind)
            ):
                case.path_parameters[name] = known
        answer = case.call_and_validate(
            base_url=served.url, headers=served.headers, excluded_checks=NOT_HELD_AGAINST_IT
        )
        if case.method == "DELETE" and answer.status_code == 204 and len(kinds) == 1:
            things.forget(*kinds.values())

    _check_operation(operation, check)
