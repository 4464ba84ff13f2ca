"""What MCP servers ask users, in both eras: returned, and answered when the call is made again."""

from __future__ import annotations

import asyncio

import pytest

from perdure.domain.mcp import (
    McpAnswers,
    McpContent,
    McpInputRequired,
    McpLost,
)
from tests.mcp_scripts import Json, Scripted, Talk, event, replies, result, says, text
from tests.unit.fake_server import Reply, Request


async def test_a_stateless_question_is_returned_and_answered_with_its_state() -> None:
    form = {"type": "object", "properties": {"name": {"type": "string"}}}
    asked = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": form}}

    async def asking(request: Request, reply: Reply, message: Json) -> None:
        given = message["params"].get("inputResponses")
        if given is None:
            assert "requestState" not in message["params"]
            body = result(message, inputRequests={"who": asked}, requestState="s1")
            body["result"]["resultType"] = "input_required"
            await reply.json(200, body)
        else:
            assert message["params"]["requestState"] == "s1"
            await says(given["who"]["content"]["name"])(request, reply, message)

    async with Scripted(tools__call=asking) as server:
        async with Talk.to(server.url, elicitation="url_and_form") as talk:
            required = await talk.call()
            assert isinstance(required, McpInputRequired)
            assert (required.requests[0].key, required.requests[0].schema) == ("who", form)
            given = {"who": {"action": "accept", "content": {"name": "Ann"}}}
            assert await talk.said(answers=McpAnswers(given, required.state)) == "Ann"
        async with Talk.to(server.url) as talk:
            with pytest.raises(McpLost, match="elicitation_policy"):
                await talk.call()


async def test_a_state_without_questions_goes_on_by_itself() -> None:
    async def twice(request: Request, reply: Reply, message: Json) -> None:
        if message["params"].get("requestState") == "":
            await says("went on")(request, reply, message)
            return
        await reply.json(
            200, {**result(message), "result": {"resultType": "input_required", "requestState": ""}}
        )

    async with Scripted(tools__call=twice) as server, Talk.to(server.url) as talk:
        assert await talk.said() == "went on"
        assert len({each["id"] for each in server.messages}) == len(server.messages)


async def test_an_error_that_names_a_url_is_a_question() -> None:
    data = {"elicitations": [{"mode": "url", "elicitationId": "e", "url": "https://x.org/", "message": "m"}]}
    step = replies(200, (-32042, "first", data))
    server = Scripted("legacy", tools__call=step)
    async with server, Talk.to(server.url, elicitation="url") as talk:
        required = await talk.call()
        assert isinstance(required, McpInputRequired)
        assert (required.requests[0].url, required.requests[0].key) == ("https://x.org/", "e")


async def test_what_a_server_asks_during_a_call_is_answered_or_refused() -> None:
    answered: list[Json] = []

    async with Scripted("legacy") as server, Talk.to(server.url) as talk:
        done = asyncio.Event()

        async def asking(_: Request, reply: Reply, message: Json) -> None:
            await reply.start(200, "text/event-stream")
            for key, method in enumerate(
                ("ping", "sampling/createMessage", "roots/list", "elicitation/create")
            ):
                await reply.frames(event({"jsonrpc": "2.0", "id": f"q{key}", "method": method, "params": {}}))
            await done.wait()
            await reply.frames(event(text(message, "went on")))

        async def response(_: Request, reply: Reply, message: Json) -> None:
            answered.append(message)
            await reply.json(202, None)
            if len(answered) == 4:
                done.set()

        server.steps |= {"tools/call": asking, "response": response}
        assert await talk.said() == "went on"
        assert answered[0]["result"] == {}
        assert [each["error"]["code"] for each in answered[1:]] == [-32601] * 3
        hello = next(each for each in server.messages if each["method"] == "initialize")
        assert hello["params"]["capabilities"] == {}


async def test_a_question_may_come_on_the_sessions_own_stream() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()
    answers: list[Json] = []

    async def stream(_: Request, reply: Reply, __: Json) -> None:
        await reply.start(200, "text/event-stream")
        await reply.send(b": open\n\n")
        await asked.wait()
        asked.clear()
        params = {"message": "Sure?", "requestedSchema": {"type": "object"}}
        question = {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": params}
        await reply.frames(event(question))
        await reply.silence()

    async def asking(_: Request, reply: Reply, message: Json) -> None:
        asked.set()
        await answered.wait()
        await reply.json(200, text(message, answers[-1]["result"]["action"]))

    async def response(_: Request, reply: Reply, message: Json) -> None:
        answers.append(message)
        answered.set()
        await reply.json(202, None)

    server = Scripted("legacy", GET=stream, tools__call=asking, response=response)
    async with server, Talk.to(server.url, elicitation="url_and_form") as talk:
        required = await talk.call(idempotent=True)
        assert isinstance(required, McpInputRequired)
        assert "notifications/cancelled" in server.seen
        given = McpAnswers({required.requests[0].key: {"action": "decline"}}, required.state)
        assert await talk.said(answers=given, idempotent=True) == "decline"
        assert (server.count("tools/call"), server.count("GET")) == (2, 2)


async def test_a_server_without_such_a_stream_is_not_asked_for_it_again() -> None:
    async with Scripted("legacy") as server, Talk.to(server.url, elicitation="url") as talk:
        for _ in range(3):
            await talk.call()
        assert server.count("GET") == 1
        assert server.count("DELETE") == 0


async def test_several_questions_are_answered_one_after_another() -> None:
    answers: list[Json] = []

    async with Scripted("legacy") as server, Talk.to(server.url, elicitation="url_and_form") as talk:
        got = asyncio.Event()

        async def asking(_: Request, reply: Reply, message: Json) -> None:
            answers.clear()
            await reply.start(200, "text/event-stream")
            for key in ("a", "b", "b"):  # the same question may come twice
                got.clear()
                params = {"message": key, "requestedSchema": {"type": "object"}}
                asked = {"jsonrpc": "2.0", "id": key, "method": "elicitation/create", "params": params}
                await reply.frames(event(asked))
                await got.wait()
            said = ",".join(each["result"]["action"] for each in answers)
            await reply.frames(event(text(message, said)))

        async def response(_: Request, reply: Reply, message: Json) -> None:
            answers.append(message)
            await reply.json(202, None)
            got.set()

        server.steps |= {"tools/call": asking, "response": response}
        done = await talk.call(idempotent=True)
        for action in ("accept", "decline", "cancel"):
            assert isinstance(done, McpInputRequired)
            given = McpAnswers({done.requests[0].key: {"action": action}}, done.state)
            done = await talk.call(answers=given, idempotent=True)
        assert isinstance(done, McpContent)
        assert done.content[0]["text"] == "accept,decline,cancel"


async def test_a_question_of_a_call_that_must_not_be_repeated_is_cancelled() -> None:
    answers: list[Json] = []

    async with Scripted("legacy") as server, Talk.to(server.url, elicitation="url_and_form") as talk:
        got = asyncio.Event()

        async def asking(_: Request, reply: Reply, message: Json) -> None:
            await reply.start(200, "text/event-stream")
            params = {"message": "Sure?", "requestedSchema": {"type": "object"}}
            asked = {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": params}
            await reply.frames(event(asked))
            await got.wait()
            await reply.frames(event(text(message, answers[0]["result"]["action"])))

        async def response(_: Request, reply: Reply, message: Json) -> None:
            answers.append(message)
            await reply.json(202, None)
            got.set()

        server.steps |= {"tools/call": asking, "response": response}
        assert await talk.said(idempotent=False) == "cancel"
        assert server.count("tools/call") == 1
