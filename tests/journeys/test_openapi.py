"""The server against its own OpenAPI document: generated requests, good and bad, over real HTTP.

What is generated is the same in every run.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import requests

from perdure import __version__
from perdure.api.openapi.document import build_document
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings
from tests.command import perdure
from tests.server import Server
from tests.soak import SOAKING

if TYPE_CHECKING:
    from schemathesis import Case, Response
    from schemathesis.schemas import APIOperation, BaseSchema

# The server is measured; to generate requests under measurement is slow. The soak makes more of them.
pytestmark = [pytest.mark.unmeasured, *([pytest.mark.soak] if SOAKING else [])]

PARTS = 8
"""Tests among which the operations are divided, so that all workers take some."""


class Served(NamedTuple):
    """A running server that requires a token, a token that it accepts, and connections that stay open."""

    url: str
    headers: dict[str, str]
    session: requests.Session

    def check(self, case: Case) -> Response:
        from tests.journeys.generated import not_held_against_it

        return case.call_and_validate(
            base_url=self.url,
            session=self.session,
            headers=self.headers,
            excluded_checks=not_held_against_it(case),
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of this module's own."""
    data = tmp_path_factory.mktemp("openapi") / "data"
    server = Server(data)
    with asyncio.Runner() as runner:
        made = runner.run(perdure("keys", "create", "--data", str(data)))
        assert made.status == 0, made.err
        runner.run(server.start())
        token = {"Authorization": f"Bearer {made.out.strip()}"}
        organizations = httpx.get(f"{server.url}/v1/orgs", headers=token).json()["data"]
        # Requests create more organizations; after that each request must name one.
        with requests.Session() as session:
            yield Served(server.url, {**token, "X-Org-Id": organizations[0]["id"]}, session)
        assert runner.run(server.stop()) == 0


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    return build_document(all_routes(Settings(), ThisProcess()), __version__)


@pytest.fixture(scope="session")
def schema(document: dict[str, Any]) -> BaseSchema:
    from tests.journeys.generated import schema_of

    return schema_of(document)


def test_what_is_served_is_what_is_tested(served: Served, document: dict[str, Any]) -> None:
    assert httpx.get(f"{served.url}/api-doc/openapi.json").json() == document


def _check_part(
    operations: list[APIOperation],
    part: int,
    schema: BaseSchema,
    subtests: pytest.Subtests,
    check: Callable[[Case], object],
) -> None:
    """Check one part of the operations; a failure names the operation."""
    from tests.journeys.generated import check_operation

    for operation in operations[part::PARTS]:
        with subtests.test(operation.label):
            check_operation(schema, operation, check)


def _with_things(schema: BaseSchema) -> list[APIOperation]:
    """The operations on a resource that must be there."""
    from tests.journeys.generated import operations

    found = schema.include(path_regex="_?id}").exclude(operation_id=["revoke_token", "create_user_token"])
    return operations(found)


@pytest.mark.parametrize("part", range(PARTS))
def test_the_server_does_what_its_document_says(
    part: int, served: Served, schema: BaseSchema, subtests: pytest.Subtests
) -> None:
    """The soak also checks operations on resources that are not there; test_bad_input.py has those too."""
    from tests.journeys.generated import operations

    others = set() if SOAKING else {each.label for each in _with_things(schema)}
    chosen = [each for each in operations(schema) if each.label not in others]
    _check_part(chosen, part, schema, subtests, served.check)


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


def _kinds(case: Case) -> dict[str, str]:
    """The kind of each id in the path: `{"session_id": "session"}`."""
    found = {}
    for parameter in case.operation.definition.raw.get("parameters", ()):
        kind = re.match(r"\^\(?([a-z]+)_\[0-9a-f\]\{32\}", parameter.get("schema", {}).get("pattern", ""))
        if parameter.get("in") == "path" and kind is not None:
            found[parameter["name"]] = kind[1]
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_and_so_it_does_with_what_there_is(
    part: int, served: Served, things: Things, schema: BaseSchema, subtests: pytest.Subtests
) -> None:
    def check(case: Case) -> None:
        kinds = _kinds(case)
        for name, kind in kinds.items():
            # A value that was generated as an invalid id stays.
            if re.fullmatch(rf"{kind}_[0-9a-f]{{32}}", str(case.path_parameters[name])) and (
                known := things.id(kind)
            ):
                case.path_parameters[name] = known
        answer = served.check(case)
        if case.method == "DELETE" and answer.status_code == 204 and len(kinds) == 1:
            things.forget(*kinds.values())

    _check_part(_with_things(schema), part, schema, subtests, check)
