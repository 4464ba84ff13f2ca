"""The inbox's rules: who may decide and until when, and what a crash or an older release leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.approvals import submit_approvals
from perdure.app.inbox import decide_item, read_item
from perdure.app.inbox_feed import open_inbox_follower
from perdure.app.inbox_lists import InboxFilter, count_inbox, list_inbox
from perdure.app.input_requests import answer_input
from perdure.app.messages import post_message
from perdure.app.session_answers import list_approvals
from perdure.domain.accounts import Caller, UserRole
from perdure.domain.decisions import Decision
from perdure.domain.errors import Conflict, Damaged, Forbidden, Gone
from perdure.domain.events import ToolStartedData
from perdure.domain.ids import UserId
from perdure.domain.inbox import DecideItem, Decider, InboxItem
from perdure.domain.input_requests import AnswerInput
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.tools import ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.store.parked_turns import complete_parked
from tests.journeys.mcp_inside import Host, hosting
from tests.journeys.test_mcp_questions import BUYS, Asker, asks, form, shop
from tests.mcp_stub import McpStub, tool
from tests.talk import call

FILES = CapabilityRef("session_file_system")
WRITES: dict[str, Any] = {"tool_calls": [call("write_file", "c1", path="/a", content="model")]}
DONE = {"text": "Done."}


def asking(**config: Any) -> tuple[CapabilityRef, ...]:
    return FILES, CapabilityRef("tool_approval", {"mode": "protective", **config})


async def items(host: Host, caller: Caller | None = None, **filters: Any) -> tuple[InboxItem, ...]:
    given = InboxFilter(session_id=host.session.id, **filters)
    return (await list_inbox(host.app, caller or host.owner, given, 0, 20)).data


async def decide(
    host: Host, item: InboxItem, decision: Decision = "allow", caller: Caller | None = None, **more: Any
) -> InboxItem:
    body = DecideItem(decision, **more)
    return await decide_item(host.app, Decider(caller or host.owner), item.id, body)


def another(host: Host, digit: str, role: UserRole = "member") -> Caller:
    return replace(host.owner, user_id=UserId(f"user_{digit * 32}"), role=role)


@pytest.mark.parametrize(
    ("approvers", "may"),
    [
        ("any_member", {"owner", "admin", "bob"}),
        ("owner", {"owner"}),
        ({"role": "admin"}, {"owner", "admin"}),
        ({"users": [f"user_{'b' * 32}"]}, {"bob"}),
        ({"users": [f"user_{'b' * 32}"], "role": "admin"}, set()),
    ],
)
async def test_only_the_approvers_of_the_policy_decide(approvers: Any, may: set[str], tmp_path: Path) -> None:
    async with hosting("", tmp_path, WRITES, DONE, refs=asking(approvers=approvers)) as host:
        await host.ask()
        people = {"owner": host.owner, "admin": another(host, "a", "admin"), "bob": another(host, "b")}
        (item,) = await items(host)
        for name, caller in people.items():
            assert (await items(host, caller, mine=True) != ()) == (name in may), name
            assert (await items(host, caller))[0].you_may_decide == (name in may)
            counted = await count_inbox(host.app, caller, InboxFilter())
            assert (counted.total, counted.mine) == (1, int(name in may))
            if name not in may:
                with pytest.raises(Forbidden, match="may not decide"):
                    await decide(host, item, caller=caller)
                body = SubmitApprovals((ApprovalDecision("c1", "reject"),))
                with pytest.raises(Forbidden):
                    await submit_approvals(host.app, Decider(caller), host.session.id, body)
        if "bob" in may:
            with pytest.raises(Forbidden, match="session's owner or an admin"):
                await decide(host, item, "allow_always", people["bob"])
        for name in may - {"owner"}:
            decided = await decide(host, item, caller=people[name])
            assert decided.outcome is not None
            assert decided.outcome.decided is not None
            assert decided.outcome.decided.by == people[name].user_id
            break


async def test_an_item_cannot_be_decided_after_its_deadline(database_url: str, tmp_path: Path) -> None:
    async with hosting(database_url, tmp_path, WRITES, DONE, refs=asking()) as host:
        policy = replace(host.engine.policy, approval_timeout=0.0)
        late = replace(host, engine=replace(host.engine, policy=policy))
        await late.ask()
        assert await items(late) == ()
        event = next(each for each in await late.log() if each.type == "tool.call_requested")
        known = f"inbox_{late.session.id[-32:]}{event.sequence:08x}0000"
        item = await read_item(late.app, late.owner, known)
        if item.outcome is None:
            with pytest.raises(Gone, match="deadline"):
                await decide(late, item)
            body = SubmitApprovals((ApprovalDecision("c1", "allow"),))
            with pytest.raises(Conflict, match="deadline"):
                await submit_approvals(late.app, Decider(late.owner), late.session.id, body)
        await late.work()
        item = await read_item(late.app, late.owner, known)
        assert item.outcome is not None
        assert item.outcome.status == "expired"
        with pytest.raises(Gone, match="deadline"):
            await decide(late, item)


async def test_a_message_that_came_first_withdraws_the_item_before_anybody_works_on_it(
    tmp_path: Path,
) -> None:
    async with hosting("", tmp_path, WRITES, DONE, refs=asking()) as host:
        await host.ask()
        (item,) = await items(host)
        message = CreateMessage(InputMessage((TextPart("Never mind."),)))
        await post_message(host.app, host.owner, host.session.id, message)
        assert await items(host) == ()
        with pytest.raises(Gone, match="a new message"):
            await decide(host, item)


async def test_edited_arguments_run_in_a_session_with_secrets(tmp_path: Path) -> None:
    secrets = {"KEY": "correct-horse-battery"}
    async with hosting("", tmp_path, WRITES, DONE, refs=asking(), secrets=secrets) as host:
        await host.ask()
        (item,) = await items(host)
        decided = await decide(host, item, arguments={"path": "/a", "content": "person"}, reason="So.")
        assert decided.outcome is not None
        await host.work()
        starts = [data for event in await host.log() if (data := event.get(ToolStartedData))]
        assert [each.tool_call.arguments for each in starts] == [{"path": "/a", "content": "person"}]
        told = str(host.driver.requests[-1].messages)
        assert "The user changed the arguments" in told
        assert "The user said: So." in told


async def test_items_of_calls_that_an_older_release_parked_are_the_same(
    database_url: str, tmp_path: Path
) -> None:
    async with hosting(database_url, tmp_path, WRITES, DONE, refs=asking(approvers="owner")) as host:
        await host.ask()
        known = await items(host)
        assert len(known) == 1
        old = {"kind": "approval", "tool_call_id": "c1", "tool_name": "write_file", "until": 1 << 55}
        await host.app.database.write(
            lambda tx: tx.run(
                "UPDATE sessions SET parked = ? WHERE id = ?", json.dumps([old]), host.session.id
            )
        )
        assert await items(host) == known
        await decide(host, known[0], "reject")
        assert await items(host) == ()


async def test_calls_that_the_first_release_parked_are_in_the_inbox_after_a_start(
    database_url: str, tmp_path: Path
) -> None:
    async with hosting(database_url, tmp_path, WRITES, DONE, refs=asking(approvers="owner")) as host:
        await host.ask()
        database, known = host.app.database, await items(host)
        query = "SELECT parked, wake_at FROM sessions WHERE id = ?"
        before = await database.read(lambda tx: tx.one(query, host.session.id))
        forget = "UPDATE sessions SET parked = NULL WHERE id = ?"
        await database.write(lambda tx: tx.run(forget, host.session.id))
        assert await items(host) == ()
        await complete_parked(database)
        assert await database.read(lambda tx: tx.one(query, host.session.id)) == before
        assert await items(host) == known
        await decide(host, known[0], "reject")
        assert await items(host) == ()


@pytest.mark.parametrize("damage", ["the event", "the event, with an older row"])
async def test_a_log_that_cannot_be_read_hides_no_items_of_others(damage: str, tmp_path: Path) -> None:
    async with hosting("", tmp_path, WRITES, WRITES, DONE, refs=asking()) as host:
        await host.ask()
        (broken,) = await items(host)
        other = await host.with_session(refs=asking())
        await other.ask()
        known, database = await items(other), host.app.database
        spoil = "UPDATE events SET data = '{' WHERE session_id = ? AND type = 'tool.call_requested'"
        await database.write(lambda tx: tx.run(spoil, host.session.id))
        if damage != "the event":
            old = {"kind": "approval", "tool_call_id": "c1", "tool_name": "write_file", "until": 1 << 55}
            change = "UPDATE sessions SET parked = ? WHERE id = ?"
            await database.write(lambda tx: tx.run(change, json.dumps([old]), host.session.id))
            host.app.turns.discard(host.session.id)
        assert (await list_inbox(host.app, host.owner, InboxFilter(), 0, 20)).data == known
        assert (await count_inbox(host.app, host.owner, InboxFilter())).total >= 1
        follower = await open_inbox_follower(host.app, host.owner, InboxFilter(), initial=True)
        (added,) = await follower.frames(0)
        assert known[0].id.encode() in added.data
        follower.close()
        open_ones = await list_approvals(host.app, host.owner, None)
        assert other.session.id in {each.session_id for each in open_ones}
        with pytest.raises(Damaged):
            await read_item(host.app, host.owner, broken.id)


async def test_what_a_server_asks_is_an_item_that_is_answered_elsewhere(tmp_path: Path) -> None:
    asker = Asker(asks("who", form("Your name?")))
    async with (
        McpStub([tool("buy")], answer=asker) as stub,
        hosting("", tmp_path, *BUYS, servers=shop(stub)) as host,
    ):
        await host.ask()
        (item,) = await items(host, kind="input", mine=True)
        (asked,) = item.input_requests
        assert item.links.decide.endswith(f"/input-requests/{asked.id}")
        assert await items(host, kind="approval") == ()
        with pytest.raises(Conflict, match="not an approval"):
            await decide(host, item)
        await answer_input(
            host.app, host.owner, host.session.id, asked.id, AnswerInput("accept", {"name": "Ada"})
        )
        assert await items(host) == ()
        answered = await read_item(host.app, host.owner, item.id)
        assert answered.outcome is not None
        assert answered.outcome.status == "decided"
        with pytest.raises(Conflict, match="already"):
            await decide(host, item)
