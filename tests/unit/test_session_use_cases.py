"""What use cases of sessions do with files, skills and schedules, without a server."""

from __future__ import annotations

import io
from functools import partial
from zipfile import ZipFile

import pytest
from msgspec.structs import replace

from perdure.app import schedules, session_skills
from perdure.app.schedules import (
    all_schedules,
    change_schedule,
    create_schedule,
    fire_due,
    read_schedule,
    redate_schedules,
    remove_schedule,
)
from perdure.app.session_ends import delete_session
from perdure.app.session_skills import KnownSkills, activate, offered_skills
from perdure.app.shell_changes import Changes, Saved
from perdure.app.shell_files import after_command, before_command, files_size
from perdure.app.skills import create_skill, destroy_skill, upload_skill
from perdure.domain.errors import InvalidInput, NotFound, ToolError
from perdure.domain.files import Content, content_of
from perdure.domain.guards import GuardedFiles
from perdure.domain.ids import SessionId, SkillId, new_id
from perdure.domain.memories import MemoryMount
from perdure.domain.schedules import CreateSchedule, UpdateSchedule
from perdure.domain.skills import CreateSkill
from perdure.store.blobs import KEPT, purge_blobs
from perdure.store.database import Tx
from perdure.store.schedules import update_schedule
from perdure.store.session_deletion import mark_deleted
from perdure.store.sessions import get_session
from tests.unit.rooms import Room

HOUR = 3_600_000_000


def texts(**files: str) -> dict[str, Content]:
    return {f"/{name}": content_of(text.encode()) for name, text in files.items()}


# --- a command's changes of files ---------------------------------------------


async def test_a_commands_changes_are_written_together_and_told(room: Room) -> None:
    await room.open()
    await room.write({"/a": b"1", "/docs/b": b"2", "/docs/deep/c": b"3"})
    assert await files_size(room.app, room.tool, room.id) == 3
    changes = Changes(texts(a="new", d="4"), ("/docs/deep/c",), ("/docs/deep",), ("/empty",))
    saved = await room.run(changes)
    assert saved.notes == ()
    assert [(each.path, each.operation) for each in saved.events] == [
        ("/docs/deep/c", "delete"), ("/a", "write"), ("/d", "write"),
    ]  # fmt: skip
    before, state = await before_command(room.app, room.tool, room.id)
    assert (before.files, state) == ({"/a": b"new", "/d": b"4", "/docs/b": b"2"}, "x=1")
    assert set(before.folders) == {"/docs", "/empty"}


async def test_what_others_changed_meanwhile_is_neither_overwritten_nor_removed(room: Room) -> None:
    await room.open()
    await room.write({"/a": b"1", "/b": b"1"})
    changes = Changes(texts(a="mine", c="mine", d="same"), ("/b",))
    saved = await room.run(changes, {"/a": b"theirs", "/b": b"theirs", "/c": b"theirs", "/d": b"same"})
    assert set(saved.notes) == {
        "/a was not written: it was changed meanwhile",
        "/c was not written: it was changed meanwhile",
        "/b was not removed: it was changed meanwhile",
    }
    assert await room.files() == {"/a": b"theirs", "/b": b"theirs", "/c": b"theirs", "/d": b"same"}


async def test_a_file_that_cannot_be_written_does_not_keep_the_others_from_it(room: Room) -> None:
    await room.open()
    await room.write({"/fixed": b"1"}, readonly=True)
    written = texts(a="1", b="2", c="3", fixed="4") | {"/bad//path": content_of(b"6")}
    saved = await room.run(Changes(written, ("/fixed",)))
    assert {note.partition(":")[0] for note in saved.notes} == {
        "/fixed was not written", "/fixed was not removed", "/bad//path was not written",
    }  # fmt: skip
    assert await room.files() == {"/a": b"1", "/b": b"2", "/c": b"3", "/fixed": b"1"}


async def test_many_contents_are_stored_before_the_files_that_have_them(room: Room) -> None:
    await room.open()
    await room.write({"/kept": b"0"})
    written = {f"/{number}": content_of(b"%d" % (number % 450)) for number in range(900)}
    saved = await room.run(Changes(written | {"/long": content_of(bytes(3 << 20))}, ("/kept",)))
    assert (len(saved.events), saved.notes) == (902, ())
    files = await room.files()
    assert {path: files[path] for path in written} == {path: each.data for path, each in written.items()}
    assert len(files["/long"]) == 3 << 20
    await room.app.database.write(lambda tx: purge_blobs(tx, room.app.now() + 2 * KEPT, 10_000))
    assert await room.files() == files


async def test_contents_of_a_command_that_could_not_be_saved_do_not_stay(room: Room) -> None:
    await room.open()
    written = {f"/{number}": content_of(b"%d" % number) for number in range(300)}
    before, _ = await before_command(room.app, room.tool, room.id)
    await delete_session(room.app, room.owner, room.id)
    with pytest.raises(NotFound):
        await after_command(room.app, room.tool, room.id, before, Changes(written), "x=1")
    for left in (300, 0):
        found = await room.app.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM blobs"))
        assert found == (left,)
        await room.app.database.write(lambda tx: purge_blobs(tx, room.app.now() + 2 * KEPT, 10_000))


async def test_a_command_does_not_change_files_that_need_an_approval(room: Room) -> None:
    await room.open()
    guarded = GuardedFiles(frozenset({"/rules.md"}))
    saved = await room.run(Changes({**texts(a="1"), "/rules.md": content_of(b"2")}), guarded=guarded)
    assert [note.partition(":")[0] for note in saved.notes] == ["/rules.md was not changed"]
    assert await room.files() == {"/a": b"1"}
    assert await room.run(Changes(texts(a="3")), guarded=guarded) != Saved()
    assert await room.run(Changes({})) == Saved()


async def test_files_too_large_for_a_command_are_left_out_and_not_replaced(room: Room) -> None:
    await room.open()
    await room.write({"/large": b"x" * 20, "/small": b"x"})
    room.app = replace(room.app, file_limits=replace(room.app.file_limits, file=10))
    before, _ = await before_command(room.app, room.tool, room.id)
    assert (before.files, before.left_out) == ({"/small": b"x"}, ("/large",))
    assert await files_size(room.app, room.tool, room.id) == 1
    saved = await room.run(Changes(texts(large="y", new="z" * 11)))
    assert saved.notes[0] == "/large was not written: the shell cannot see its content"
    assert saved.notes[1].startswith("/new was not written: ")


async def test_a_command_gets_the_smallest_files_that_it_has_room_for(room: Room) -> None:
    await room.open()
    await room.write({"/a": b"x" * 20, "/b": b"y" * 5, "/c": b"z" * 5, "/d": b""})
    room.app = replace(room.app, file_limits=replace(room.app.file_limits, command=12))
    before, _ = await before_command(room.app, room.tool, room.id)
    assert (sorted(before.files), before.left_out) == (["/b", "/c", "/d"], ("/a",))
    assert await files_size(room.app, room.tool, room.id) == 12
    assert before.notes() == [
        "/a was left out: it is too large for a command, or there are too many large files"
    ]
    saved = await room.run(Changes(texts(a="mine"), ("/b",)))
    assert saved.notes == ("/a was not written: the shell cannot see its content",)
    room.app = replace(room.app, file_limits=replace(room.app.file_limits, command=100))
    assert await room.files() == {"/a": b"x" * 20, "/c": b"z" * 5, "/d": b""}


# --- a command's changes of memories ------------------------------------------


MEMORIES = (MemoryMount("mine", scope="user", mode="read_write"), MemoryMount("fixed", scope="user"))


async def test_changes_of_memories_are_written_one_by_one_beside_those_of_the_workspace(
    room: Room,
) -> None:
    await room.open(*MEMORIES)
    first = {
        **texts(a="own"),
        "/memories/mine/notes/b.md": content_of(b"kept"),
        "/memories/mine/c.md": content_of(b"c"),
    }
    saved = await room.run(Changes(first, made_folders=("/memories/mine/empty",)))
    assert saved.notes == ()
    assert [(each.path, each.operation, each.created) for each in saved.events] == [
        ("/a", "write", True),
        ("/memories/mine/c.md", "write", True),
        ("/memories/mine/notes/b.md", "write", True),
    ]
    changed = {"/memories/mine/c.md": content_of(b"changed")}
    saved = await room.run(Changes(changed, ("/memories/mine/notes/b.md",), ("/memories/mine/notes",)))
    assert [(each.path, each.operation) for each in saved.events] == [
        ("/memories/mine/c.md", "write"), ("/memories/mine/notes/b.md", "delete"),
    ]  # fmt: skip
    assert saved.notes == ()
    assert await room.files() == {"/a": b"own", "/memories/mine/c.md": b"changed"}


async def test_changes_that_a_memory_refuses_are_noted_and_the_others_are_kept(room: Room) -> None:
    await room.open(*MEMORIES)
    paths = ("mine/a.md", "mine/bad//path", "fixed/b.md", "other/c.md")
    written = {f"/memories/{path}": content_of(b"x") for path in paths}
    saved = await room.run(Changes(written, removed_folders=("/memories/fixed",)))
    assert [each.path for each in saved.events] == ["/memories/mine/a.md"]
    told = {note.partition(": ")[0]: note.partition(": ")[2] for note in saved.notes}
    assert told["/memories/mine/bad//path was not changed"] == "its path is not valid in a memory"
    assert told["/memories/fixed/b.md was not changed"] == "/memories/fixed is mounted read-only"
    assert "There are: /memories/fixed, /memories/mine" in told["/memories/other/c.md was not changed"]
    assert "/memories/fixed was not removed" in told


# --- skills ---------------------------------------------------------------------


def skill_md(name: str, more: str = "") -> bytes:
    return f"---\nname: {name}\ndescription: Fills in forms.\n{more}---\n\nList the fields.\n".encode()


async def test_skills_in_files_are_offered_with_what_is_wrong_with_them(room: Room) -> None:
    await room.open()
    await room.write(
        {
            "/.agents/skills/forms/SKILL.md": skill_md("forms"),
            "/.agents/skills/forms/more.md": b"more",
            "/.agents/skills/other/SKILL.md": skill_md("forms"),
            "/.agents/skills/Odd_Name/SKILL.md": skill_md("Odd_Name"),
            "/.agents/skills/huge/SKILL.md": skill_md("huge") + b"x" * 200_000,
        }
    )
    known = KnownSkills()
    for _ in range(2):
        found = {each.name: each for each in await offered_skills(room.app, known, room.tool, room.id, {})}
        assert sorted(found) == ["Odd_Name", "forms", "huge", "other"]
        assert found["forms"].errors == ()
        assert "must be the folder's name, 'other'" in found["other"].errors[0]
        assert "the maximum is" in found["huge"].errors[0]
        assert found["Odd_Name"].errors
    active = await activate(room.app, room.tool, room.id, found["forms"], 0)
    assert (active.text.strip(), active.files, active.count) == (
        "List the fields.", ("/.agents/skills/forms/more.md",), 1,
    )  # fmt: skip
    await room.write({"/.agents/skills/forms/SKILL.md": b"no front matter"})
    with pytest.raises(ToolError, match="'forms' cannot be used"):
        await activate(room.app, room.tool, room.id, found["forms"], 0)


async def test_a_registered_skill_hides_one_of_the_files_until_it_is_deleted(room: Room) -> None:
    await room.open()
    await room.write({"/.agents/skills/forms/SKILL.md": skill_md("forms")})
    made = await create_skill(room.app, room.owner, CreateSkill(skill_md("forms").decode()))
    offered = partial(offered_skills, room.app, KnownSkills(), room.tool, room.id)
    (skill,) = await offered({SkillId(made.id): None})
    assert (skill.name, skill.source) == ("forms", "registry")
    active = await activate(room.app, room.tool, room.id, skill, 0)
    assert (active.text.strip(), active.files, active.written) == ("List the fields.", (), ())
    await destroy_skill(room.app, room.owner, SkillId(made.id))
    with pytest.raises(ToolError, match="'forms' has just been deleted"):
        await activate(room.app, room.tool, room.id, skill, 0)
    (own,) = await offered({SkillId(made.id): None})
    assert own.source == "files"


# --- schedules ------------------------------------------------------------------


async def test_a_schedule_is_changed_field_by_field_and_stays_valid(room: Room) -> None:
    await room.open()
    app, tool, session = room.app, room.tool, room.id
    made = await create_schedule(app, tool, session, CreateSchedule("Look.", cron="0 9 * * *"))
    change = partial(change_schedule, app, tool, session, made.id)
    assert await change(UpdateSchedule()) == made
    named = await change(UpdateSchedule(name="Morning", message="Look again."))
    assert (named.name, named.message, named.next_at) == ("Morning", "Look again.", made.next_at)
    off = await change(UpdateSchedule(enabled=False))
    assert (off.enabled, off.next_at, off.cron) == (False, None, "0 9 * * *")
    once = await change(UpdateSchedule(at="2999-01-01T00:00:00Z", enabled=True))
    assert (once.kind, once.cron, once.next_at) == ("once", None, "2999-01-01T00:00:00.000000Z")
    moved = await change(UpdateSchedule(timezone="Asia/Tokyo"))
    assert (moved.timezone, moved.next_at) == ("Asia/Tokyo", once.next_at)
    with pytest.raises(InvalidInput, match="only one of `cron` and `at`"):
        await change(UpdateSchedule(cron="0 9 * * *", at="2999-01-01T00:00:00Z"))
    with pytest.raises(InvalidInput):
        await change(UpdateSchedule(timezone="Mars/Base"))
    assert await all_schedules(app, tool, session) == [moved]
    assert await read_schedule(app, tool, session, made.id) == moved
    await remove_schedule(app, tool, session, made.id)
    with pytest.raises(NotFound):
        await remove_schedule(app, tool, session, made.id)


async def due(room: Room, **columns: str | int) -> str:
    """A schedule that is due, with these values in its row."""
    made = await create_schedule(room.app, room.tool, room.id, CreateSchedule("Look.", cron="0 9 * * *"))
    changes = {"next_at": 1, **columns}
    await room.app.database.write(partial(update_schedule, schedule_id=made.id, changes=changes))
    return made.id


async def test_a_schedule_that_cannot_be_dated_any_more_is_disabled_and_others_fire(room: Room) -> None:
    await room.open()
    wrong = await due(room, timezone="Mars/Base")
    right = await due(room)
    assert await fire_due(room.app) == 1
    disabled = await read_schedule(room.app, room.tool, room.id, wrong)
    assert (disabled.enabled, disabled.next_at, disabled.fire_count) == (False, None, 0)
    fired = await read_schedule(room.app, room.tool, room.id, right)
    assert (fired.enabled, fired.fire_count) == (True, 1)
    assert await fire_due(room.app) == 0


async def test_a_schedule_that_fails_is_tried_again_a_minute_later(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    await room.open()
    failing = await due(room)
    now = room.app.now()
    broken = replace(room.app, new_id=lambda kind: {}[kind], now=lambda: now)
    assert await fire_due(broken) == 0
    assert f"schedule {failing} cannot be fired" in caplog.text
    assert await fire_due(replace(room.app, now=lambda: now + 59_000_000)) == 0
    assert await fire_due(replace(room.app, now=lambda: now + 61_000_000)) == 1


async def test_schedules_of_a_clock_that_was_ahead_are_brought_forward(room: Room) -> None:
    await room.open()
    now = room.app.now()
    ahead = now + 1000 * 24 * HOUR
    far = await due(room, next_at=ahead, updated_at=ahead)
    wrong = await due(room, next_at=ahead, updated_at=ahead, timezone="Mars/Base")
    assert await redate_schedules(room.app) == 1
    assert await redate_schedules(room.app) == 0
    moved = await read_schedule(room.app, room.tool, room.id, far)
    assert moved.next_at is not None
    assert moved.next_at < (await read_schedule(room.app, room.tool, room.id, wrong)).next_at


async def test_a_schedule_of_a_deleted_session_ends_without_a_message(room: Room) -> None:
    await room.open()
    gone = await due(room)

    async def delete(tx: Tx) -> None:
        await mark_deleted(tx, await get_session(tx, room.owner.organization_id, room.id, lock=True), 1)

    await room.app.database.write(delete)
    assert await fire_due(room.app) == 0
    count = "SELECT count(*) FROM schedules WHERE id = ?"
    assert await room.app.database.read(lambda tx: tx.one(count, gone)) == (0,)


async def test_a_session_has_so_many_schedules_and_no_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.open()
    monkeypatch.setattr(schedules, "MAX_ACTIVE", 1)
    body = CreateSchedule("Look.", cron="0 9 * * *")
    first = await create_schedule(room.app, room.tool, room.id, body)
    with pytest.raises(InvalidInput, match="at most 1 active"):
        await create_schedule(room.app, room.tool, room.id, body)
    asleep = await create_schedule(room.app, room.tool, room.id, replace(body, enabled=False))
    change = partial(change_schedule, room.app, room.tool, room.id)
    with pytest.raises(InvalidInput, match="at most 1 active"):
        await change(asleep.id, UpdateSchedule(enabled=True))
    await change(first.id, UpdateSchedule(enabled=False))
    assert (await change(asleep.id, UpdateSchedule(enabled=True))).enabled


async def test_the_files_of_a_skill_are_put_into_the_session_once(room: Room) -> None:
    await room.open()
    data = io.BytesIO()
    with ZipFile(data, "w") as archive:
        archive.writestr("forms/SKILL.md", skill_md("forms"))
        archive.writestr("forms/references/fields.md", "Fields.")
    made = await upload_skill(room.app, room.owner, data.getvalue())
    (skill,) = await offered_skills(room.app, KnownSkills(), room.tool, room.id, {SkillId(made.id): None})
    began = room.app.now()
    first = await activate(room.app, room.tool, room.id, skill, began)
    assert first.files == (f"{skill.folder}/references/fields.md",)
    assert {each.path for each in first.written} >= set(first.files)
    assert (await room.files())[first.files[0]] == b"Fields."
    again = await activate(room.app, room.tool, room.id, skill, began)
    assert {each.path for each in again.written} == {each.path for each in first.written}
    later = await activate(room.app, room.tool, room.id, skill, room.app.now() + HOUR)
    assert (later.written, later.files) == ((), first.files)
    with pytest.raises(ToolError, match="session"):
        await activate(room.app, room.tool, SessionId(new_id("session")), skill, began)


async def test_a_process_remembers_the_latest_skills_of_files(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.open()
    monkeypatch.setattr(session_skills, "KNOWN", 1)
    await room.write({f"/.agents/skills/{name}/SKILL.md": skill_md(name) for name in ("one", "two")})
    for _ in range(2):
        found = await offered_skills(room.app, KnownSkills(), room.tool, room.id, {})
        assert [(each.name, each.errors) for each in found] == [("one", ()), ("two", ())]
