"""Trees of files, on both databases.

What a change may do, and that changes at once do not harm one another.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest

from perdure.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PerdureError,
    PreconditionFailed,
    TooLarge,
)
from perdure.domain.files import MAX_ENTRIES, FileLimits, content_of
from perdure.domain.paths import is_below, parent_of
from perdure.store.database import Database
from perdure.store.file_changes import (
    Written,
    set_readonly,
)
from perdure.store.files import get_entry, list_children, list_tree, need_file
from perdure.store.workspaces import (
    get_workspace,
    hold_workspace,
    update_workspace,
)
from tests.conformance.desk import NOW, ORG, OTHER, Desk, refused
from tests.conformance.places import soon


async def test_folders_above_a_file_are_made_and_listed(desk: Desk) -> None:
    await desk.write_all(("/a/b/c", b"1"), ("/a/d", b"2"), ("/e", b"3"))
    assert await desk.tree() == ["/a/", "/a/b/", "/a/b/c", "/a/d", "/e"]
    assert await desk.tree("/a") == ["/a/b/", "/a/b/c", "/a/d"]
    children = await desk.database.read(lambda tx: list_children(tx, ORG, desk.id, "/a"))
    assert [row.path for row in children] == ["/a/b", "/a/d"]
    tops = await desk.database.read(lambda tx: list_children(tx, ORG, desk.id, "/"))
    assert [row.path for row in tops] == ["/a", "/e"]


async def test_a_folder_ends_where_its_name_ends(desk: Desk) -> None:
    names = ["/a", "/a!", "/a-b", "/a.b", "/a0", "/aa", "/A", "/é", "/a%", "/a_"]
    await desk.write_all(*((f"{name}/x", b"x") for name in names))
    assert await desk.tree("/a") == ["/a/x"]
    assert await desk.delete("/a", recursive=True) == 2
    assert sorted(path for path in await desk.tree() if path.endswith("x")) == sorted(
        f"{name}/x" for name in names[1:]
    )


async def test_the_same_path_in_another_workspace_or_organization_is_another_file(database: Database) -> None:
    mine, other = await Desk(database).open(), await Desk(database, OTHER).open()
    await mine.write("/a", b"mine")
    assert await database.read(lambda tx: get_entry(tx, OTHER, mine.id, "/a")) is None
    assert await database.read(lambda tx: list_tree(tx, OTHER, mine.id)) == []
    assert await other.tree() == []
    await refused(
        NotFound, "workspace_not_found", database.write(lambda tx: hold_workspace(tx, OTHER, mine.id))
    )
    await refused(
        NotFound, "workspace_not_found", database.read(lambda tx: get_workspace(tx, OTHER, mine.id))
    )


async def test_what_a_write_may_ask_for(desk: Desk) -> None:
    await refused(NotFound, "file_not_found", desk.write("/a", old=True))
    await refused(PreconditionFailed, "precondition_failed", desk.write("/a", expected=frozenset(("*",))))
    row = (await desk.write("/a", b"1", new=True)).row
    await refused(Conflict, "file_exists", desk.write("/a", b"2", new=True))
    changed = await desk.write("/a", b"2", expected=frozenset((row.hash,)))
    assert not changed.created
    await refused(
        PreconditionFailed, "precondition_failed", desk.write("/a", b"3", expected=frozenset((row.hash,)))
    )
    again = await desk.write("/a", b"2", expected=frozenset((row.hash,)))
    assert again.row.hash == changed.row.hash
    assert again.row.updated_at > changed.row.updated_at > row.updated_at
    assert again.row.created_at == row.created_at


async def test_files_and_folders_do_not_take_each_others_place(desk: Desk) -> None:
    await desk.write("/file")
    await desk.write("/folder", None, new=True)
    await refused(InvalidInput, "is_a_folder", desk.write("/folder"))
    await refused(InvalidInput, "is_a_folder", desk.write("/"))
    await refused(Conflict, "file_exists", desk.write("/", None, new=True))
    await refused(Conflict, "file_exists", desk.write("/file", None, new=True))
    await refused(Conflict, "not_a_folder", desk.write("/file/below"))
    await refused(Conflict, "not_a_folder", desk.write("/file/deep/below"))
    await refused(Conflict, "not_a_folder", desk.write_all(("/new", b"x"), ("/new/below", b"x")))
    assert await desk.tree() == ["/file", "/folder/"]


async def test_writes_are_made_all_or_none(desk: Desk) -> None:
    await desk.write("/taken/x")
    await refused(
        InvalidInput, "is_a_folder", desk.write_all(("/one", b"1"), ("/two/three", b"2"), ("/taken", b"3"))
    )
    assert await desk.tree() == ["/taken/", "/taken/x"]
    assert (await desk.row()).file_count == 2


async def test_a_read_only_file_stays_as_and_where_it_is(desk: Desk) -> None:
    await desk.write("/dir/fixed", b"fixed", readonly=True)
    for attempt in (
        desk.write("/dir/fixed", b"x"),
        desk.delete("/dir/fixed"),
        desk.delete("/dir", recursive=True),
        desk.move("/dir/fixed", "/elsewhere"),
        desk.move("/dir", "/elsewhere"),
    ):
        await refused(Forbidden, "file_read_only", attempt)
    assert await desk.read("/dir/fixed") == b"fixed"
    copied = await desk.copy("/dir", "/copy")
    assert not copied.is_readonly
    await desk.write("/copy/fixed", b"changed")
    await desk.write("/dir/fixed", b"forced", force=True)
    row = await desk.database.read(lambda tx: need_file(tx, ORG, desk.id, "/dir/fixed"))
    assert row.is_readonly
    await desk.change(lambda tx, _: set_readonly(tx, row, False, NOW))
    assert await desk.delete("/dir", recursive=True) == 2


async def test_what_is_deleted(desk: Desk) -> None:
    await desk.write_all(("/a/b", b"1"), ("/c", b"2"))
    await refused(Conflict, "folder_not_empty", desk.delete("/a"))
    await refused(InvalidInput, "invalid_path", desk.delete("/", recursive=True))
    await refused(
        PreconditionFailed, "precondition_failed", desk.delete("/c", expected=frozenset(("other",)))
    )
    assert await desk.delete("/nothing") == 0
    assert await desk.delete("/a/b") == 1
    assert await desk.delete("/a") == 1
    assert await desk.tree() == ["/c"]


async def test_what_is_moved_keeps_its_content_and_takes_everything_along(desk: Desk) -> None:
    await desk.write_all(("/a/b/c", b"c"), ("/a/d", b"d"), ("/ab", b"ab"))
    await desk.move("/a", "/x/y")
    assert await desk.tree() == ["/ab", "/x/", "/x/y/", "/x/y/b/", "/x/y/b/c", "/x/y/d"]
    assert await desk.read("/x/y/b/c") == b"c"
    children = await desk.database.read(lambda tx: list_children(tx, ORG, desk.id, "/x/y/b"))
    assert [row.path for row in children] == ["/x/y/b/c"]


@pytest.mark.parametrize("work", ["move", "copy"])
async def test_where_nothing_can_be_moved_or_copied_to(desk: Desk, work: str) -> None:
    await desk.write_all(("/a/b", b"1"), ("/c", b"2"))
    do = getattr(desk, work)
    await refused(NotFound, "file_not_found", do("/nothing", "/x"))
    await refused(Conflict, "file_exists", do("/c", "/a"))
    await refused(Conflict, "file_exists", do("/c", "/c"))
    await refused(Conflict, "file_exists", do("/c", "/"))
    await refused(Conflict, "not_a_folder", do("/a", "/c/x"))
    await refused(InvalidInput, "invalid_path", do("/a", "/a/x"))
    await refused(InvalidInput, "invalid_path", do("/", "/x"))
    await refused(InvalidInput, "invalid_path", do("/a", "/" + "/".join(["y" * 200] * 5) + "/" + "y" * 18))
    assert await desk.tree() == ["/a/", "/a/b", "/c"]


async def test_the_limits_are_kept(database: Database) -> None:
    desk = await Desk(database, limits=FileLimits(100, 250)).open()
    await refused(TooLarge, "file_too_large", desk.write("/a", b"x" * 101))
    await desk.write_all(("/a", b"a" * 100), ("/b", b"b" * 100))
    await refused(TooLarge, "workspace_full", desk.write("/c", b"c" * 51))
    await refused(TooLarge, "workspace_full", desk.write_all(("/c", b"c" * 30), ("/d", b"d" * 30)))
    await refused(TooLarge, "workspace_full", desk.copy("/a", "/c"))
    await desk.write("/c", b"c" * 50)
    await desk.write("/a", b"s")
    await desk.write("/d", b"d" * 99)
    await desk.delete("/b")
    await desk.copy("/d", "/e")
    row = await desk.row()
    assert (row.size_bytes, row.file_count) == (1 + 50 + 99 + 99, 4)


async def test_a_workspace_has_a_limit_of_entries(desk: Desk) -> None:
    row = await desk.row()
    await desk.database.write(lambda tx: update_workspace(tx, row, {"file_count": MAX_ENTRIES - 2}))
    await refused(TooLarge, "too_many_files", desk.write("/a/b/c"))
    await desk.write("/a/b")
    await refused(TooLarge, "too_many_files", desk.copy("/a", "/c"))
    await desk.write("/a/b", b"changed")


# --- concurrent changes -------------------------------------------------------


async def test_of_many_who_create_a_file_one_does(desk: Desk) -> None:
    attempts = [desk.write("/a/b/one", b"%d" % number, new=True) for number in range(12)]
    done = await soon(asyncio.gather(*attempts, return_exceptions=True))
    assert sum(isinstance(each, Written) for each in done) == 1
    assert sum(isinstance(each, Conflict) for each in done) == 11
    row = await desk.row()
    assert (row.file_count, row.size_bytes) == (3, len(await desk.read("/a/b/one")))


async def test_of_many_who_change_what_they_have_read_each_change_is_on_top_of_another(desk: Desk) -> None:
    await desk.write("/list", b"")

    async def add(name: int) -> None:
        while True:
            text = await desk.read("/list")
            try:
                await desk.write("/list", text + b"%d\n" % name, expected=frozenset((content_of(text).hash,)))
            except PreconditionFailed:
                continue
            return

    await soon(asyncio.gather(*(add(name) for name in range(10))))
    assert sorted(map(int, (await desk.read("/list")).split())) == list(range(10))


async def test_a_file_and_a_folder_that_are_made_at_once_do_not_both_come_about(desk: Desk) -> None:
    for turn in range(6):
        await soon(asyncio.gather(desk.write(f"/{turn}"), desk.write(f"/{turn}/x"), return_exceptions=True))
        there = [path for path in await desk.tree() if path.startswith(f"/{turn}")]
        assert there in ([f"/{turn}"], [f"/{turn}/", f"/{turn}/x"])


async def test_what_a_workspace_is_said_to_hold_is_what_it_holds(desk: Desk) -> None:
    works: list[Awaitable[Any]] = []
    for number in range(20):
        works += [
            desk.write(f"/d{number % 3}/f{number % 5}", b"x" * number),
            desk.delete(f"/d{number % 3}", recursive=True),
        ]
        works += [desk.move(f"/d{number % 3}", f"/m{number}"), desk.copy(f"/m{number - 1}", f"/c{number}")]
    done = await soon(asyncio.gather(*works, return_exceptions=True))
    assert [each for each in done if isinstance(each, Exception) and not isinstance(each, PerdureError)] == []
    rows = await desk.database.read(lambda tx: list_tree(tx, ORG, desk.id))
    row = await desk.row()
    assert (row.file_count, row.size_bytes) == (len(rows), sum(each.size_bytes for each in rows))
    known = {each.path for each in rows}
    assert all(each.parent == parent_of(each.path) and each.parent in known | {"/"} for each in rows)


# --- against a model --------------------------------------------------------


class Model:
    """A model of a tree of files, as a dict; None stands for a folder."""

    def __init__(self) -> None:
        self.held: dict[str, bytes | None] = {}

    def ready(self, path: str) -> bool:
        """Return whether each path above this one is a folder or does not exist."""
        above, _, _ = path.rpartition("/")
        return above == "" or (
            self.held.get(above, b"" if above in self.held else None) is None and self.ready(above)
        )

    def make_above(self, path: str) -> None:
        above, _, _ = path.rpartition("/")
        if above:
            self.make_above(above)
            self.held[above] = None

    def write(self, path: str, data: bytes) -> bool:
        if not self.ready(path) or (path in self.held and self.held[path] is None):
            return False
        self.make_above(path)
        self.held[path] = data
        return True

    def delete(self, path: str) -> bool:
        gone = [each for each in self.held if each == path or is_below(each, path)]
        for each in gone:
            del self.held[each]
        return bool(gone)

    def bring(self, source: str, target: str, *, move: bool) -> bool:
        if (
            source not in self.held
            or target in self.held
            or is_below(target, source)
            or not self.ready(target)
        ):
            return False
        brought = {each: data for each, data in self.held.items() if each == source or is_below(each, source)}
        if move:
            self.delete(source)
        self.make_above(target)
        self.held |= {target + each[len(source) :]: data for each, data in brought.items()}
        return True


@pytest.mark.parametrize("seed", range(4))
async def test_the_tree_does_what_a_simple_one_would_do(desk: Desk, seed: int) -> None:
    pick, model = random.Random(seed), Model()
    names = ["a", "b", "a-", "é"]

    def path() -> str:
        return "".join(f"/{pick.choice(names)}" for _ in range(pick.randint(1, 3)))

    for step in range(120):
        kind, source, target, data = pick.randrange(6), path(), path(), b"%d" % pick.randrange(8)
        match kind:
            case 0 | 1 | 2:
                expected, attempt = model.write(source, data), desk.write(source, data)
            case 3:
                expected, attempt = model.delete(source), desk.delete(source, recursive=True)
            case 4:
                expected, attempt = model.bring(source, target, move=True), desk.move(source, target)
            case _:
                expected, attempt = model.bring(source, target, move=False), desk.copy(source, target)
        try:
            done = bool(await attempt)
        except PerdureError:
            done = False
        assert done is expected, (seed, step)
    rows = await desk.database.read(lambda tx: list_tree(tx, ORG, desk.id))
    assert {row.path: None if row.is_directory else await desk.read(row.path) for row in rows} == model.held
    row = await desk.row()
    assert (row.file_count, row.size_bytes) == (
        len(model.held),
        sum(len(data or b"") for data in model.held.values()),
    )
