"""Contents of memories, on both databases: kept as long as a file or a version has them."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.memory_files import Writing, delete_path, write_files
from perdure.domain.files import content_of
from perdure.domain.ids import MemoryId, MemoryVersionId, SessionId, UserId, new_id
from perdure.domain.memories import Author
from perdure.store.blobs import purge_blobs
from perdure.store.confidential import note_reader, others_have_some, reader_of
from perdure.store.database import Database
from perdure.store.file_changes import FileWrite
from perdure.store.memories import MemoryRow, add_memory, get_memory, remove_memory
from perdure.store.memory_versions import list_versions, redact_content
from tests.conformance.desk import HOUR, NOW, ORG, OTHER, count

ADA, BOB = UserId(new_id("user")), UserId(new_id("user"))


class Shelf:
    """A memory, changed in transactions of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.row = MemoryRow(
            MemoryId(new_id("memory")), ORG, "named", "notes", None, None, None, ADA, "active",
            0, 0, 0, 0, NOW, NOW,
        )  # fmt: skip

    async def open(self) -> Shelf:
        assert await self.database.write(lambda tx: add_memory(tx, self.row))
        again = replace(self.row, id=MemoryId(new_id("memory")))
        assert not await self.database.write(lambda tx: add_memory(tx, again))
        return self

    async def _writing(self) -> Writing:
        row = await self.database.read(lambda tx: get_memory(tx, ORG, self.row.id))
        return Writing(row, Author(ORG, ADA), NOW, lambda: MemoryVersionId(new_id("memver")))

    async def write(self, path: str, text: str) -> None:
        at = await self._writing()
        write = FileWrite(path, content_of(text.encode()))
        await self.database.write(lambda tx: write_files(tx, at, (write,)))

    async def delete(self, path: str) -> None:
        at = await self._writing()
        await self.database.write(lambda tx: delete_path(tx, at, path, recursive=False, expected=None))

    async def purge(self) -> int:
        """Remove what nothing refers to, as the sweep does an hour later; the number of contents left."""
        await self.database.write(lambda tx: purge_blobs(tx, NOW + HOUR))
        return await count(self.database, "blobs")


async def test_a_versions_content_outlives_its_file_and_not_its_redaction(database: Database) -> None:
    shelf = await Shelf(database).open()
    await shelf.write("/a", "one")
    await shelf.write("/a", "two")
    await shelf.delete("/a")
    assert await shelf.purge() == 2
    versions = await database.read(lambda tx: list_versions(tx, ORG, shelf.row.id, None, None, 10))
    assert [each.operation for each in versions] == ["delete", "update", "create"]
    assert await database.write(lambda tx: redact_content(tx, versions[2], ADA, NOW)) == 3
    assert await shelf.purge() == 1
    await shelf.write("/b", "one")  # the same text, written again, is not redacted
    assert await shelf.purge() == 2


async def test_a_removed_memory_leaves_nothing(database: Database) -> None:
    shelf = await Shelf(database).open()
    await shelf.write("/a/b", "one")
    await shelf.write("/a/b", "two")
    await database.write(lambda tx: remove_memory(tx, shelf.row, NOW))
    assert await shelf.purge() == 0
    for table in ("memories", "memory_versions", "files", "blob_parts"):
        assert await count(database, table) == 0


async def test_who_reads_a_closed_session_is_known_by_the_top_of_its_tree(database: Database) -> None:
    session = SessionId(new_id("session"))
    assert await database.read(lambda tx: reader_of(tx, session)) is None
    await database.write(lambda tx: note_reader(tx, ORG, session, ADA, NOW))
    await database.write(lambda tx: note_reader(tx, ORG, session, BOB, NOW))  # the first stays
    for user, others in ((ADA, False), (BOB, True)):
        assert await database.read(lambda tx, user=user: others_have_some(tx, ORG, user)) is others
        assert not await database.read(lambda tx, user=user: others_have_some(tx, OTHER, user))
