"""What belongs to a session, through the Python client: files, storage, schedules, databases, forks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from perdure.client import ApiError, Client, Conflict, NotFound, PerdureError
from tests.command import use_simulated_model
from tests.server import Server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


BYTES = bytes(range(256)) * 1200
"""More than is encoded on the event loop."""


async def test_files_go_in_and_out_as_bytes(client: Client) -> None:
    session = await client.create_session()
    workspace = await client.create_workspace(name="Shared")
    for owner in (session.id, workspace.id):
        for path, content in (("/a/text.md", "Grüße\n"), ("a/bytes.bin", BYTES), ("/a/x #?%.md", b"")):
            written = await client.write_file(owner, path, content)
            assert written.size_bytes == len(content.encode() if isinstance(content, str) else content)
            expected = content.encode() if isinstance(content, str) else content
            assert await client.read_file(owner, path) == expected
        names = [file.path for file in await client.list_files(owner, "/a")]
        assert names == ["/a/bytes.bin", "/a/text.md", "/a/x #?%.md"]
        assert len(await client.list_files(owner, recursive=True)) == 4


async def test_a_file_is_replaced_protected_moved_found_and_deleted(client: Client) -> None:
    owner = (await client.create_session()).id
    first = await client.write_file(owner, "/plan.md", "TODO: buy milk")
    assert (await client.write_file(owner, "/plan.md", "TODO: buy oats")).hash != first.hash
    with pytest.raises(ApiError) as caught:
        await client.write_file(owner, "/plan.md", "mine", expected_hash=first.hash)
    assert caught.value.status == 412
    with pytest.raises(NotFound):
        await client.write_file(owner, "/none.md", "mine", expected_hash=first.hash)
    with pytest.raises(ApiError) as caught:
        await client.delete_file(owner, "/plan.md", expected_hash=first.hash)
    assert caught.value.status == 412
    with pytest.raises(Conflict):
        await client.create_file(owner, "/plan.md")
    found = await client.grep_files(owner, "oats$", "*.md")
    assert [(match.path, match.line_number) for file in found.data for match in file.matches] == [
        ("/plan.md", 1)
    ]
    await client.create_folder(owner, "/old")
    await client.copy_file(owner, "plan.md", "/old/copy.md")
    await client.move_file(owner, "/plan.md", "old/plan.md")
    assert (await client.stat_file(owner, "old/plan.md")).size_bytes == 14
    assert (await client.protect_file(owner, "/old/plan.md")).is_readonly
    with pytest.raises(ApiError, match="read-only"):
        await client.delete_file(owner, "/old", recursive=True)
    await client.protect_file(owner, "/old/plan.md", is_readonly=False)
    assert await client.delete_file(owner, "/old", recursive=True)
    assert not await client.delete_file(owner, "/old")


async def test_wrong_kinds_of_paths_are_distinct_errors(client: Client) -> None:
    owner = (await client.create_session()).id
    await client.write_file(owner, "/folder/file", b"x")
    for made, code in (
        (client.read_file(owner, "/folder"), "is_a_folder"),
        (client.read_file(owner, "/none"), "file_not_found"),
        (client.list_files(owner, "/folder/file"), "not_a_folder"),
        (client.read_file("session_1", "/folder/file"), "invalid_id"),
    ):
        with pytest.raises(PerdureError) as caught:
            await made
        assert caught.value.code == code


async def test_storage_secrets_schedules_and_databases_can_be_managed(client: Client) -> None:
    session_id = (await client.create_session()).id
    assert await client.set_secrets(session_id, {"SHOP_TOKEN": "t0k3n-value", "OTHER": "other-value"}) == 2
    assert sorted(secret.name for secret in await client.list_secrets(session_id)) == ["OTHER", "SHOP_TOKEN"]
    assert await client.list_keys(session_id) == ()

    schedule = await client.create_schedule(session_id, message="Check the mailbox.", cron="0 9 * * mon-fri")
    assert (schedule.kind, schedule.enabled) == ("cron", True)
    changed = await client.update_schedule(session_id, schedule.id, enabled=False)
    assert not changed.enabled
    assert await client.get_schedule(session_id, schedule.id) == changed
    assert await client.list_schedules(session_id) == (changed,)
    await client.delete_schedule(session_id, schedule.id)
    assert await client.list_schedules(session_id) == ()

    await client.create_database(session_id, "orders")
    assert (await client.get_database(session_id, "orders")).name == "orders"
    assert (await client.get_database_schema(session_id, "orders")).tables == ()
    assert [each.name for each in await client.list_databases(session_id)] == ["orders"]
    await client.delete_database(session_id, "orders")
    assert await client.list_databases(session_id) == ()


async def test_a_session_is_forked_exported_and_counted(client: Client) -> None:
    session = await client.create_session(tags=("support",))
    script = json.dumps([{"text": "Paris."}])
    assert await client.ask(session.id, f"The capital of France? [[sim {script}]]") == "Paris."
    fork = await client.fork_session(session.id, title="Another way")
    exported = await client.export_session(fork.id)
    assert [message.role for message in exported] == ["user", "agent"]
    assert [message.content for message in await client.list_messages(session.id)] == [
        message.content for message in exported
    ]
    assert (await client.get_events_summary(session.id)).turn_count == 1
    assert (await client.get_session_stats()).total == 2
    assert (await client.get_session_facets(tags=("support",))).total == 2
    assert (await client.get_context_report(session.id)).session_id == session.id
    events = [event.id async for event in client.iterate_events(session.id)]
    assert events == [event.id for event in await client.list_events(session.id, limit=1000)]


async def test_agents_are_versioned_copied_exported_and_imported(client: Client) -> None:
    agent = await client.create_agent(name="helper", system_prompt="Help.")
    await client.create_agent_version(agent.id, change_kind="minor", summary="Before")
    await client.update_agent(agent.id, system_prompt="Help well.")
    newest, *_, oldest = await client.list_agent_versions(agent.id)
    assert (await client.diff_agent_versions(agent.id, oldest.id, newest.id)).from_version_id == oldest.id
    await client.rollback_agent_version(agent.id, oldest.id, summary="Worse")
    assert (await client.set_default_agent_version(agent.id, oldest.id)).default_version_id == oldest.id
    await client.fork_agent_version(agent.id, oldest.id, name="forked")
    await client.copy_agent(agent.id)
    text = await client.export_agent(agent.id)
    assert (await client.import_agent(text.replace("helper", "imported"))).name == "imported"
    names = {each.name async for each in client.iterate_agents()}
    assert {"helper", "forked", "imported"} < names
    assert not (await client.check_agent_name("helper")).available
    assert await client.list_harnesses(search="no such harness") == ()
    assert await client.list_models(favorites_only=True) == ()
    assert (await client.get_capability("session")).id == "session"
