"""kill -9 around a tool that defers its result: no answer is lost, no call is made twice, every turn ends."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.deferring import installed, result_of, urls_on
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script


class Desk:
    """Sessions with one order each, by name."""

    def __init__(self, http: httpx.AsyncClient, folder: Path) -> None:
        self.http = http
        self.folder = folder
        self.talks: dict[str, Talk] = {}
        self.urls: dict[str, str] = {}

    async def begin(self, name: str, tool: str, **more: float) -> Talk:
        talk = await new_talk(self.http, harness_name="base", capabilities=[{"ref": "deferring"}])
        self.talks[name] = talk
        order = call(tool, _id="c1", desk=str(self.folder), note=name, **more)
        await talk.say(script({"tool_calls": [order]}, {"text": "Done."}))
        return talk

    async def order(self, name: str, tool: str = "order", **more: float) -> None:
        talk = await self.begin(name, tool, **more)
        (self.urls[name],) = await urls_on(self.folder, name)
        if "slow" not in more:
            await talk.logged_until("act.completed")

    async def answer(self, name: str, status: int = 200, text: str | None = None) -> None:
        assert (await self.http.post(self.urls[name], json=text or name)).status_code == status, name

    async def end(self, name: str) -> Json:
        """The result of the order, once the session is idle after its only turn."""
        events = await self.talks[name].logged_until("session.idled")
        assert kinds_of(events).count("turn.completed") == 1, name
        assert kinds_of(events).count("tool.started") == 1, name
        assert kinds_of(events).count("act.completed") == 1, name
        return result_of(events, "c1")


async def test_deferred_calls_survive_kills(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url, environment=installed(tmp_path / "site"))
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        desk = Desk(http, tmp_path)
        await desk.order("at rest")
        await desk.order("in the background")
        await desk.talks["in the background"].turn({"text": "Meanwhile."})
        await desk.order("too late", seconds=1.5)
        await desk.order("before it parked", slow=60)
        await desk.order("answered before it parked", slow=60)
        await desk.order("answered and killed")
        await desk.answer("answered before it parked")
        await desk.answer("answered and killed")
        await desk.begin("before it sent its URL", "order_in_a_step")
        await urls_on(tmp_path, "before it sent its URL has begun")
        await server.restart()

        for name in ("answered before it parked", "answered and killed"):
            assert (await desk.end(name))["result"][0]["text"] == name
            await desk.answer(name)  # a sender whose first response was lost
            await desk.answer(name, 410, "another answer")
            assert (await desk.end(name))["result"][0]["text"] == name
        # A call whose URL somebody has waits for its result, although its runner died before it parked.
        talk = desk.talks["before it parked"]
        await talk.logged_until("act.completed")
        assert [each["kind"] for each in (await talk.read())["parked_on"]] == ["callback"]
        for name in ("at rest", "before it parked"):
            await desk.answer(name)
            assert (await desk.end(name))["result"][0]["text"] == name
        # A call that has sent no URL, and may run again, does so.
        name = "before it sent its URL"
        (desk.urls[name],) = await urls_on(tmp_path, name)
        await desk.answer(name)
        assert (await desk.end(name))["result"][0]["text"] == name
        assert (await desk.end("too late"))["status"] == "timeout"
        await desk.answer("too late", 410)
        talk = desk.talks["in the background"]
        last = (await talk.events())[-1]["sequence"]
        await desk.answer("in the background")
        await server.restart()
        events = await talk.logged_until("session.idled", after=last)
        assert [event["data"]["message"]["metadata"]["callback"]["tool_call_id"] for event in events[:1]] == [
            "c1"
        ]


async def test_a_repeatable_call_is_made_again_and_either_url_is_good(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url, environment=installed(tmp_path / "site"))
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        desk = Desk(http, tmp_path)
        for name in ("old", "new"):
            await desk.order(name, "order_again", slow=2)
        await server.kill()
        for name in ("old", "new"):
            (tmp_path / name).unlink()
        await server.start()
        again = {name: (await urls_on(tmp_path, name))[0] for name in ("old", "new")}
        assert again["old"] != desk.urls["old"]
        await desk.answer("old")
        desk.urls["old"], desk.urls["new"] = again["old"], again["new"]
        await desk.answer("old", 410)
        await desk.answer("new")
        for name in ("old", "new"):
            assert (await desk.end(name))["result"][0]["text"] == name
