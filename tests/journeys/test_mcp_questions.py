"""Questions of MCP servers to people, in the middle of calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.app.input_requests import answer_input, list_input_requests
from perdure.domain.errors import Gone, InvalidInput, NotFound
from perdure.domain.events import ToolParkedData, ToolResumedData
from perdure.domain.ids import InputRequestId
from perdure.domain.input_requests import AnswerInput, InputRequest
from perdure.domain.mcp_servers import InlineMcpServer
from tests.journeys.mcp_inside import Host, hosting
from tests.mcp_stub import Call, McpStub, RpcFault, text, tool
from tests.talk import call

Json = dict[str, Any]
FORM: Json = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "size": {"enum": ["S", "M"]},
        "count": {"type": "integer", "minimum": 1},
        "gift": {"type": "boolean"},
    },
    "required": ["name"],
}


def asks(key: str, params: Json) -> Json:
    return {key: {"method": "elicitation/create", "params": params}}


def form(message: str = "Your name?", schema: Json | None = None) -> Json:
    return {"mode": "form", "message": message, "requestedSchema": schema or FORM}


class Asker:
    """Answers a call by questions, until all of them are answered."""

    def __init__(self, *rounds: Json) -> None:
        self.rounds = list(rounds)
        self.given: list[Json] = []

    async def __call__(self, made: Call) -> Json:
        given = made.more.get("inputResponses")
        if given is not None:
            self.given.append({"responses": given, "state": made.more.get("requestState")})
        if len(self.given) < len(self.rounds):
            return {
                "resultType": "input_required",
                "inputRequests": self.rounds[len(self.given)],
                "requestState": f"state {len(self.given)}",
            }
        return text(f"{self.given}")


def shop(stub: McpStub, policy: Any = "url_and_form") -> dict[str, InlineMcpServer]:
    return {"Shop": InlineMcpServer(url=stub.url, elicitation_policy=policy)}


BUYS: tuple[Json, ...] = ({"tool_calls": [call("mcp_shop__buy", _id="c1")]}, {"text": "Done."})


async def open_questions(host: Host) -> list[InputRequest]:
    return await list_input_requests(host.app, host.owner, host.session.id)


async def answer(host: Host, asked: InputRequest, action: Any = "accept", content: Any = None) -> None:
    await answer_input(host.app, host.owner, host.session.id, asked.id, AnswerInput(action, content))


async def test_a_form_parks_the_call_which_goes_on_with_the_answer(database_url: str, tmp_path: Path) -> None:
    asker = Asker(asks("who", form("Your \x1b[2Jname?")), asks("when", form("When?")))
    async with (
        McpStub([tool("buy")], answer=asker) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub)) as host,
    ):
        await host.ask()
        (asked,) = await open_questions(host)
        assert (asked.mode, asked.server, asked.schema) == ("form", "Shop", FORM)
        assert "\x1b" not in asked.message
        (parked,) = [data for event in await host.log() if (data := event.get(ToolParkedData))]
        assert (parked.parked_kind, parked.input_requests[0].id) == ("input", asked.id)
        for content, field in (
            ({}, "name"),
            ({"name": "A"}, "name"),
            ({"name": 7}, "name"),
            ({"name": "Ada", "size": "L"}, "size"),
            ({"name": "Ada", "count": 0}, "count"),
            ({"name": "Ada", "count": 1.5}, "count"),
            ({"name": "Ada", "gift": 1}, "gift"),
            ({"name": "Ada", "more": 1}, "more"),
            ({"name": "A" * 20_000}, "name"),
        ):
            with pytest.raises(InvalidInput, match=field):
                await answer(host, asked, content=content)
        await answer(host, asked, content={"name": "Ada", "size": "M", "count": 2, "gift": True})
        with pytest.raises(Gone):
            await answer(host, asked, content={"name": "Ada"})
        await host.work()
        (again,) = await open_questions(host)
        assert again.message == "When?"
        await answer(host, again, "decline")
        await host.work()
        assert asker.given == [
            {
                "responses": {
                    "who": {
                        "action": "accept",
                        "content": {"name": "Ada", "size": "M", "count": 2, "gift": True},
                    }
                },
                "state": "state 0",
            },
            {"responses": {"when": {"action": "decline"}}, "state": "state 1"},
        ]
        assert (await host.ended())[0].success
        assert len({made.meta["io.perdure/effect-key"] for made in stub.calls}) == 1
        resumed = [data for event in await host.log() if (data := event.get(ToolResumedData))]
        assert [each.parked_kind for each in resumed] == ["input", "input"]


async def test_several_questions_are_answered_one_by_one(database_url: str, tmp_path: Path) -> None:
    visit = {"mode": "url", "message": "Pay here.", "url": "https://pay.example.com/1", "elicitationId": "e1"}
    asker = Asker({**asks("who", form()), **asks("pay", visit)})
    async with (
        McpStub([tool("buy")], answer=asker) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub)) as host,
    ):
        await host.ask()
        who, pay = sorted(await open_questions(host), key=lambda each: each.mode)
        assert (pay.mode, pay.url) == ("url", "https://pay.example.com/1")
        with pytest.raises(InvalidInput):
            await answer(host, pay, content={"paid": True})
        await answer(host, pay)
        await host.work()
        assert [each.id for each in await open_questions(host)] == [who.id]
        assert len(stub.calls) == 1
        await answer(host, who, content={"name": "Ada"})
        await host.work()
        assert asker.given[0]["responses"] == {
            "who": {"action": "accept", "content": {"name": "Ada"}},
            "pay": {"action": "accept"},
        }


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "url", "message": "x", "url": "javascript:alert(1)", "elicitationId": "1"},
        {"mode": "url", "message": "x", "url": "https://u:p@a.example/", "elicitationId": "1"},
        form(schema={"type": "object", "properties": {"a": {"type": "object"}}}),
        form(schema={"type": "object", "properties": {f"f{n}": {"type": "string"} for n in range(80)}}),
    ],
)
async def test_questions_that_cannot_be_shown_fail_the_call(
    params: Json, database_url: str, tmp_path: Path
) -> None:
    async with (
        McpStub([tool("buy")], answer=Asker(asks("q", params))) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub)) as host,
    ):
        await host.ask()
        assert await open_questions(host) == []
        assert [each.success for each in await host.ended()] == [False]


async def test_a_policy_that_passes_nothing_on_declares_nothing_and_asks_nobody(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        McpStub([tool("buy")], answer=Asker(asks("q", form()))) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub, "none")) as host,
    ):
        await host.ask()
        assert await open_questions(host) == []
        assert [each.success for each in await host.ended()] == [False]
        assert "elicitation" not in str(stub.calls[0].meta)


async def test_a_server_that_never_stops_asking_fails_the_call(database_url: str, tmp_path: Path) -> None:
    asker = Asker(*(asks(f"q{number}", form()) for number in range(30)))
    async with (
        McpStub([tool("buy")], answer=asker) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub)) as host,
    ):
        await host.ask()
        for _ in range(10):
            (asked,) = await open_questions(host)
            await answer(host, asked, content={"name": "Ada"})
            await host.work()
        assert await open_questions(host) == []
        assert "10 times in a row" in (await host.said())[0]


async def test_another_sessions_question_does_not_exist_here(database_url: str, tmp_path: Path) -> None:
    async with (
        McpStub([tool("buy")], answer=Asker(asks("q", form()))) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub)) as host,
    ):
        await host.ask()
        (asked,) = await open_questions(host)
        other = await host.with_session(servers=shop(stub))
        for where, which in ((other, asked.id), (host, InputRequestId("input_" + "0" * 32))):
            with pytest.raises(NotFound):
                await answer_input(where.app, where.owner, where.session.id, which, AnswerInput("decline"))
        assert [each.id for each in await open_questions(host)] == [asked.id]


async def test_a_visit_that_is_refused_ends_the_call_of_a_server_that_only_asks_again(
    database_url: str, tmp_path: Path
) -> None:
    async def visit(made: Call) -> Json:
        asked = {"mode": "url", "elicitationId": "e", "url": "https://a.example/x", "message": "Visit."}
        raise RpcFault(-32042, "URL elicitation required", {"elicitations": [asked]})

    async with (
        McpStub([tool("buy")], answer=visit) as stub,
        hosting(database_url, tmp_path, *BUYS, servers=shop(stub, "url")) as host,
    ):
        await host.ask()
        (asked,) = await open_questions(host)
        await answer(host, asked, "cancel")
        await host.work()
        assert len(stub.calls) == 1
        (ended,) = await host.ended()
        assert (ended.status, ended.outcome_unknown) == ("rejected", False)
