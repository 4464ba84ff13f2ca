"""Typed answers and runs in the Python client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict, cast

import msgspec
import pydantic
import pytest

from perdure.client import Client, Controls, TurnFailed, TurnWaits
from perdure.client.outputs import schema_of, value_of
from perdure.domain.json_schemas import compile_schema, problems_of
from perdure.domain.messages import InputMessage, TextPart
from perdure.domain.sessions import InitialFile
from perdure.domain.tools import ApprovalDecision, CapabilityRef
from tests.journeys.people import fresh
from tests.server import Server
from tests.talk import Json, call, script

ROME: Json = {"city": "Rome", "degrees": 21}
ANSWER = {"text": json.dumps(ROME)}


class Weather(msgspec.Struct):
    city: str
    degrees: int


@dataclass
class WeatherClass:
    city: str
    degrees: int


class WeatherDict(TypedDict):
    city: str
    degrees: int


class WeatherModel(pydantic.BaseModel):
    city: str
    degrees: int


class Strict(pydantic.BaseModel, strict=True):
    at: datetime


class Tree(msgspec.Struct):
    name: str
    weather: Weather | None = None
    inner: list[Tree] = []


SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}


@pytest.fixture
async def client(sqlite_server: Server) -> AsyncIterator[Client]:
    async with Client(sqlite_server.url) as made:
        yield made


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (Weather, Weather("Rome", 21)),
        (WeatherClass, WeatherClass("Rome", 21)),
        (WeatherDict, ROME),
        (WeatherModel, WeatherModel(city="Rome", degrees=21)),
        (SCHEMA, ROME),
    ],
    ids=["msgspec", "dataclass", "TypedDict", "pydantic", "JSON Schema"],
)
async def test_an_answer_is_a_value_of_the_type_that_was_asked_for(
    client: Client, schema: Any, value: object
) -> None:
    session = await client.create_session()
    assert await client.ask(session.id, script(ANSWER), schema=schema) == value
    assert await client.run(message=script(ANSWER), schema=schema) == value


async def test_lists_and_numbers_are_answers_too(client: Client) -> None:
    session = await client.create_session()
    said = script({"text": json.dumps([ROME])})
    assert await client.ask(session.id, said, schema=list[Weather]) == [Weather("Rome", 21)]
    assert await client.ask(session.id, script({"text": "7"}), schema=int) == 7
    with pytest.raises(TypeError, match="`schema` must be a type"):
        await client.ask(session.id, "Hm.", schema=cast(Any, 3))
    with pytest.raises(TypeError, match="no field 'agnt'"):
        await client.run(message="Hm.", **cast(Any, {"agnt": "helper"}))


def test_the_schema_of_a_type_is_an_object_and_keeps_what_refers_to_itself() -> None:
    assert schema_of(Weather)["type"] == "object"
    assert "$defs" not in schema_of(Weather)
    tree = schema_of(Tree)
    assert (tree["type"], set(tree["$defs"])) == ("object", {"Tree", "Weather"})


@pytest.mark.parametrize(
    ("schema", "output", "value"),
    [
        (int, 21.0, 21),
        (Weather, {"city": "Rome", "degrees": 21.0}, Weather("Rome", 21)),
        (dict[int, str], {"1": "one"}, {1: "one"}),
        (list[WeatherModel], [ROME], [WeatherModel(city="Rome", degrees=21)]),
        (WeatherModel | None, ROME, WeatherModel(city="Rome", degrees=21)),
        (WeatherModel | None, None, None),
        (Strict, {"at": "2026-01-01T00:00:00Z"}, Strict(at=datetime(2026, 1, 1, tzinfo=UTC))),
    ],
    ids=["21.0", "21.0 inside", "keys", "list of models", "model or null", "null", "strict"],
)
def test_what_matches_the_schema_of_a_type_is_a_value_of_it(schema: Any, output: Any, value: object) -> None:
    assert problems_of(compile_schema(schema_of(schema), linear=False), output, "output") == []
    assert (found := value_of(schema, output)) == value
    assert type(found) is type(value)


def test_a_type_that_has_no_schema_and_a_value_that_breaks_a_rule_are_errors() -> None:
    with pytest.raises(TypeError):
        schema_of(Client)
    with pytest.raises(ValueError, match="Expected `int`, got `float`"):
        value_of(Weather, {"city": "Rome", "degrees": 21.5})


async def test_a_field_that_runs_do_not_have_is_refused(client: Client) -> None:
    misspelt: Any = {"agnet": "helper"}
    with pytest.raises(TypeError, match="no field 'agnet'"):
        await client.run(message="Hello.", **misspelt)


async def test_an_answer_that_never_matches_is_an_error(client: Client) -> None:
    session = await client.create_session()
    with pytest.raises(TurnFailed) as caught:
        await client.ask(session.id, script({"text": "It is warm."}), schema=Weather)
    assert caught.value.code == "output_invalid"
    with pytest.raises(ValueError, match="not both"):
        await client.ask(session.id, "Hm.", schema=Weather, controls=Controls(output_schema=SCHEMA))


async def test_a_run_takes_what_a_session_starts_with(client: Client) -> None:
    agent = await client.create_agent(
        name=fresh("reader"), system_prompt="Read.", capabilities=(CapabilityRef("session_file_system"),)
    )
    reads = script({"tool_calls": [call("read_file", path="/a.txt")]}, {"text": "Read."})
    key = fresh("key")
    fields: Any = {
        "agent": agent.name,
        "message": InputMessage((TextPart(reads),)),
        "files": [InitialFile("/a.txt", "Hello.")],
        "metadata": {"run": key},
        "idempotency_key": key,
    }
    assert [await client.run(**fields) for _ in range(2)] == ["Read.", "Read."]
    (session,) = (await client.list_sessions(metadata={"run": key})).data
    result = await client.get_result(session.id)
    assert (result.status, result.session_id, session.agent_id) == ("completed", session.id, agent.id)


async def test_a_run_that_waits_for_somebody_can_be_resumed_with_its_type(client: Client) -> None:
    agent = await client.create_agent(
        name=fresh("careful"),
        system_prompt="Take care.",
        capabilities=(CapabilityRef("tool_approval", {"mode": "normal"}),),
    )
    danger = script({"tool_calls": [call("bash", "call_1", command="true")]}, ANSWER)
    with pytest.raises(TurnWaits) as caught:
        await client.run(agent=agent.id, message=danger, schema=Weather)
    waits = caught.value
    parked = await client.get_result(waits.session_id)
    assert (parked.status, parked.waiting_on[0].kind) == ("waiting", "approval")
    await client.submit_tool_approvals(waits.session_id, [ApprovalDecision("call_1", "allow")])
    assert await client.resume(waits, schema=Weather) == Weather("Rome", 21)
