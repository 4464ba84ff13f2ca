"""States of a turn: before it, in the middle of it where the kill hit, and after each of its ends."""

from __future__ import annotations

from tests.server import post
from tests.talk import Json, kinds_of, when
from tests.upgrade.place import Place
from tests.upgrade.state import State, call, holds, last_text, of_kind, outcomes, results, text_at, value


class NeverUsed(State):
    """A session that was made and never spoken to takes its first message."""

    async def reach(self, old: Place) -> Json:
        await old.session("never used")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        assert kinds_of(await new.talk("never used").events()) == ["session.started"]


class AtRest(State):
    """A session at rest shows the same fields and messages as before, and the next turn knows what was
    said."""

    async def reach(self, old: Place) -> Json:
        talk = await old.session("at rest", tags=["kept"], locale="de-DE", system_prompt="Be kind.")
        await old.turn("at rest", {"text": "One.", "thinking": "Hm."}, ask="First?")
        await old.turn(
            "at rest", {"calls": [call("get_session_info", "info")]}, {"text": "Two."}, ask="Second?"
        )
        return {"session": await talk.read(), "messages": await talk.messages()}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("at rest")
        shown = await talk.read()
        # The built-in harness follows its newest version, so it may have gained capabilities.
        assert set(shown["features"]) >= set(facts["session"]["features"])
        assert holds(shown, {**facts["session"], "features": shown["features"]})
        assert holds(await talk.messages(), facts["messages"])
        await new.turn("at rest", {"text": "Three."}, ask="Third?")
        (asked,) = new.model.calls("at rest")
        assert "Be kind." in asked.prompt
        assert any("One." in text for text in asked.messages)
        assert asked.messages[-1].startswith("Third?")


class KilledBeforeTheFirstWord(State):
    """The model had been asked and had said nothing: it is asked once more, and the turn is completed."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        talk = await old.session("killed before the first word")
        async with talk.follow() as stream:
            await old.held("killed before the first word", {"hold": "silent", "text": "At last."})
            await stream.until("output.message.started")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("killed before the first word", "session.idled")
        assert last_text(events) == "At last."
        assert kinds_of(events).count("reason.started") == 0
        assert len(new.model.calls("killed before the first word")) == 1


class KilledWhileTheModelSpoke(State):
    """The model had said half of its answer: it is asked once more, and the answer stands in the log
    once, whole."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        talk = await old.session("killed while the model spoke")
        async with talk.follow() as stream:
            await old.held(
                "killed while the model spoke", {"hold": "speaking", "text": "One half, and the other."}
            )
            await stream.until("output.message.delta")
        started = (await talk.events(types="output.message.started"))[0]
        return {"message_id": started["data"]["message_id"]}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("killed while the model spoke", "session.idled")
        assert last_text(events) == "One half, and the other."
        assert of_kind(events, "output.message.completed")[0]["message"]["id"] == facts["message_id"]
        assert len(new.model.calls("killed while the model spoke")) == 1


class KilledBetweenTwoAttempts(State):
    """The vendor had asked to come back later: the call is made again at once, and the turn is completed."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        await old.session("killed between two attempts")
        await old.held("killed between two attempts", {"hold": "refused", "text": "Now I can."})
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("killed between two attempts", "session.idled")
        assert last_text(events) == "Now I can."
        assert len(new.model.calls("killed between two attempts")) == 1


class KilledWhileItCorrectedItself(State):
    """An answer did not match its schema, and the model had been asked again: that call is made again, it
    knows what was wrong, and the turn ends with a value."""

    since = "0.3.0"
    phase = "held"

    async def reach(self, old: Place) -> Json:
        await old.session(
            "killed while it corrected itself", output_schema={"type": "array", "items": {"type": "integer"}}
        )
        steps = ({"text": '["one"]'}, {"hold": "silent", "text": "[1]"})
        await old.held("killed while it corrected itself", *steps, at=1)
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("killed while it corrected itself", "session.idled")
        assert of_kind(events, "turn.completed")[0]["output"] == [1]
        (asked,) = new.model.calls("killed while it corrected itself")
        assert '0: the value is not of type "integer"' in asked.messages[-1]


class KilledAfterTools(State):
    """A round of tools was through and the model had been asked again: only that call is made again, no
    tool is."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        talk = await old.session("killed after tools", initial_files=[{"path": "/a", "content": "|"}])
        edit = call("edit_file", "edit", path="/a", old_text="|", new_text="|x")
        async with talk.follow() as stream:
            await old.held(
                "killed after tools", {"calls": [edit]}, {"hold": "silent", "text": "Edited."}, at=1
            )
            await stream.until("act.completed")
            await stream.until("output.message.started")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("killed after tools", "session.idled")
        assert last_text(events) == "Edited."
        assert not of_kind(events, "tool.started")
        assert [each.step for each in new.model.calls("killed after tools")] == [1]
        assert await text_at(new.talk("killed after tools"), "/a") == "|x"


class KilledInsideTools(State):
    """Five calls had begun and none was logged as done: those that may be made again are, the model is
    told that the others were interrupted, and what they had done is there once."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        name = "killed inside tools"
        more = [{"ref": each} for each in ("session_sql_database", "session_storage")]
        talk = await old.session(name, capabilities=more, initial_files=[{"path": "/a", "content": "|"}])
        await old.turn(
            name, {"calls": [call("sql_execute", "table", sql="create table t (x)")]}, {"text": "Made."}
        )
        before = await value(talk, "/databases/main")
        calls = [
            call("bash", "shell", command="sleep 100; echo late > /workspace/late"),
            call("edit_file", "edit", path="/a", old_text="|", new_text="|x"),
            call("sql_execute", "insert", sql="insert into t values (1)"),
            call("kv_store", "keep", operation="set", key="k", value="v"),
            call("write_file", "write", path="/b", content="b"),
        ]
        await old.say(name, {"calls": calls}, {"text": "So it is."})

        async def all_done() -> bool:
            # Results enter the log in the order of the calls: while the first runs, only effects are seen.
            kept = (await value(talk, "/storage/keys"))["data"]
            written = (await talk.http.get(talk.path("/fs/b"))).status_code == 200
            inserted = (await value(talk, "/databases/main"))["updated_at"] != before["updated_at"]
            return bool(kept) and written and inserted and await text_at(talk, "/a") == "|x"

        await when(all_done)
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        name, talk = "killed inside tools", new.talk("killed inside tools")
        events = await new.fresh_until(name, "session.idled")
        assert outcomes(events) == {
            "shell": "interrupted",
            "edit": "interrupted",
            "insert": "interrupted",
            "keep": "success",
            "write": "success",
        }
        assert not of_kind(events, "tool.started")
        assert any("may or may not have taken effect" in text for text in new.model.calls(name)[0].messages)
        assert await text_at(talk, "/a") == "|x"
        assert (await talk.http.get(talk.path("/fs/late"))).status_code == 404
        counted = await new.turn(
            name, {"calls": [call("sql_query", "count", sql="select x from t")]}, {"text": "One."}
        )
        assert results(counted)[0]["rows"] == [[1]]


class Steered(State):
    """Two messages were waiting to steer the running turn: the model sees both, in that turn."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        await old.session("steered")
        await old.held("steered", {"hold": "silent", "text": "First answer."})
        first = await old.say("steered", ask="And this.")
        second = await old.say("steered", {"text": "All three."}, ask="And that.")
        return {"messages": [first["id"], second["id"]]}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("steered", "session.idled")
        shown = of_kind(events, "llm.generation")[-1]["messages"]
        assert [message["id"] for message in shown][-2:] == facts["messages"]
        assert kinds_of(await new.talk("steered").events())[:200].count("turn.started") == 1
        assert last_text(events) == "All three."


class AcceptedWhileStopping(State):
    """A message came while the server stopped, was acknowledged, and no turn had begun: its turn runs."""

    phase = "draining"

    async def reach(self, old: Place) -> Json:
        talk = await old.session("accepted while stopping")
        await old.say("accepted while stopping", {"text": "I heard you."})
        assert "turn.started" not in kinds_of(await talk.events())
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("accepted while stopping", "session.idled")
        assert kinds_of(events).count("turn.started") == 1
        assert last_text(events) == "I heard you."


class Cancelled(State):
    """A turn was cancelled: nothing more comes of it, and the next one runs."""

    async def reach(self, old: Place) -> Json:
        await old.session("cancelled")
        await old.held("cancelled", {"hold": "silent", "text": "Never said."})
        assert await old.talk("cancelled").cancel() != "no_op"
        await old.talk("cancelled").logged_until("session.idled")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        assert await new.talk("cancelled").cancel() == "no_op"
        assert kinds_of(await new.talk("cancelled").events()).count("turn.cancelled") == 1


class Failed(State):
    """A turn failed because the vendor refused the key: the next one runs."""

    async def reach(self, old: Place) -> Json:
        await old.session("failed")
        await old.turn("failed", {"status": 401})
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        (failed,) = await new.talk("failed").events(types="turn.failed")
        assert failed["data"]["error_code"] == "provider_auth"


class Sealed(State):
    """A turn was given up after too many crashes: it stays sealed, and the next one runs."""

    phase = "recovered"

    async def reach(self, old: Place) -> Json:
        await old.session("sealed")
        await old.held("sealed", {"hold": "silent", "text": "Never said."})
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        kinds = kinds_of(await new.talk("sealed").events())
        assert kinds.count("turn.sealed") == 1
        assert kinds[-1] == "session.idled"


class Deleted(State):
    """Sessions that were deleted, at rest and in the middle of a turn, stay so: 404, and nobody works on
    them."""

    async def reach(self, old: Place) -> Json:
        await old.session("deleted at rest")
        await old.turn("deleted at rest", {"text": "Goodbye."})
        await old.session("deleted in the middle")
        await old.held("deleted in the middle", {"hold": "silent", "text": "Never said."})
        for name in ("deleted at rest", "deleted in the middle"):
            assert (await old.http.delete(old.talk(name).path())).status_code == 204
            old.sessions[name].over = "gone"
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        for name in ("deleted at rest", "deleted in the middle"):
            for path in ("", "/events", "/messages"):
                assert (await new.http.get(new.talk(name).path(path))).status_code == 404
            assert new.model.calls(name) == []


class Forked(State):
    """Forks, of a session at rest and of the middle of a turn, have its history, files and secrets, and
    go their own way."""

    async def reach(self, old: Place) -> Json:
        talk = await old.session("original", initial_files=[{"path": "/n", "content": "remember"}])
        assert (
            await talk.http.put(talk.path("/storage/secrets"), json={"secrets": {"PIN": "forked-4711"}})
        ).is_success
        events = await old.turn("original", {"calls": [call("get_session_info", "info")]}, {"text": "Late."})
        middle = next(each["sequence"] for each in events if each["type"] == "tool.started")
        whole = await post(talk.http, talk.path("/fork"), {"title": "fork"})
        part = await post(
            talk.http, talk.path("/fork"), {"from_sequence": middle, "title": "fork of the middle"}
        )
        old.adopt("fork", whole["id"])
        old.adopt("fork of the middle", part["id"])
        await old.turn(
            "fork", {"calls": [call("write_file", "write", path="/n", content="changed")]}, {"text": "Mine."}
        )
        return {"middle": middle, "original": talk.id}

    async def end(self, new: Place, facts: Json) -> None:
        fork, part = await new.talk("fork").read(), await new.talk("fork of the middle").read()
        assert fork["forked_from_session_id"] == part["forked_from_session_id"] == facts["original"]
        assert part["forked_from_sequence"] == facts["middle"]
        assert await text_at(new.talk("original"), "/n") == "remember"
        assert await text_at(new.talk("fork"), "/n") == "changed"
        await new.turn("fork", {"text": "Still mine."}, ask="It is forked-4711.")
        (asked,) = new.model.calls("fork")
        assert "Late." in asked.messages
        assert asked.messages[-1].startswith("It is [secret PIN].")


TURNS: tuple[State, ...] = (
    NeverUsed(),
    AtRest(),
    KilledBeforeTheFirstWord(),
    KilledWhileTheModelSpoke(),
    KilledBetweenTwoAttempts(),
    KilledWhileItCorrectedItself(),
    KilledAfterTools(),
    KilledInsideTools(),
    Steered(),
    AcceptedWhileStopping(),
    Cancelled(),
    Failed(),
    Sealed(),
    Deleted(),
    Forked(),
)
