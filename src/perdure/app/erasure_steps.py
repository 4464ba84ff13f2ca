"""The steps of an erasure. Each is small and can be repeated, so whoever is killed is followed by another.

An erasure goes through its stages in order: the sessions are deleted and purged, then what else a user has;
the search index forgets them, contents that nothing refers to are removed, and last what is left in the
database's files. Stages keep their place in the erasure's row.
"""

from __future__ import annotations

import re
from functools import partial

import msgspec

from perdure.app.context import App
from perdure.app.erasure_remains import EARLIER, remaining_of
from perdure.app.session_ends import remove_session
from perdure.app.task_news import deliver
from perdure.domain.erasures import Remaining, Stage
from perdure.domain.errors import Conflict, NotFound, Unavailable
from perdure.domain.ids import ErasureId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.blobs import KEPT, purge_erased_blobs
from perdure.store.database import Changes, Purged, Tx, overwriting
from perdure.store.erasures import (
    ErasureRow,
    change_erasure,
    erasing,
    lock_erasure,
    running_erasures,
)
from perdure.store.gone_files import copies_are_made, purge_erased_files
from perdure.store.idempotency import remove_answers, unnamed_answers
from perdure.store.open_transactions import database_time, has_older_transactions
from perdure.store.rows import to_json
from perdure.store.search import forget_absent, next_segment
from perdure.store.session_deletion import (
    erased_ids,
    living_below,
    mark_below,
    news_of_erased,
    purge_erased,
)
from perdure.store.sessions import SessionRow
from perdure.store.user_remains import (
    PSEUDONYMIZED,
    erase_answers,
    erase_memory,
    erase_rows_of_user,
    forget_maker,
    has_sessions,
    mark_deleted_of_user,
    memories_of,
    pseudonymize,
    sessions_of_user,
)

_PURGING = '"purging"'
"""The place once only the purge is left of the stage `sessions`."""
_SESSION = re.compile(r"session_[0-9a-f]{32}")
AT_ONCE = 10
"""The most sessions that one step deletes."""


async def take_step(app: App, row: ErasureRow) -> bool:
    """Go on with an erasure; return whether there is more to do at once. False: it waits, or is finished."""
    match row.stage:
        case "sessions":
            return await _sessions(app, row)
        case "user":
            return await _user(app, row)
        case "index":
            return await _index(app, row)
        case "contents":
            return await _contents(app, row)
        case "files":
            return await _files(app, row)
    return False


async def _go_to(app: App, row: ErasureRow, stage: Stage, place: object = None) -> None:
    """Note that a stage begins, or how far it is."""
    changes: Changes = {"stage": stage, "place": "" if place is None else to_json(place)}
    await _change(app, row, changes)


async def _change(app: App, row: ErasureRow, changes: Changes) -> None:
    async def work(tx: Tx) -> None:
        current = await lock_erasure(tx, row.id)
        # Another process may have gone on with it meanwhile.
        if current is not None and (current.stage, current.place) == (row.stage, row.place):
            await change_erasure(tx, current, changes, app.now())

    await app.database.write(work)


async def _sessions(app: App, row: ErasureRow) -> bool:
    database = app.database
    if row.place == "":  # what remains is counted while it can still be found
        remains = (*row.remaining(), *await remaining_of(app, row))
        await _change(app, row, {"remains": to_json(remains), "place": to_json([""])})
        return True
    user = UserId(row.subject_id) if row.kind == "user" else None
    living = await database.read(partial(living_below, erasure_id=row.id, limit=AT_ONCE))
    if user is not None and not living:
        living = [
            SessionId(each)
            for each in await database.read(lambda tx: sessions_of_user(tx, row.org_id, user, AT_ONCE))
        ]
    if any([await _delete(app, row, session_id) for session_id in living]):
        return True
    await database.write(lambda tx: _mark(tx, row, user, app.now()))
    if row.place != _PURGING:
        await _older_answers(app, row)
        return True
    purged = await database.write(lambda tx: purge_erased(tx, row.org_id, row.id))
    files = await database.write(lambda tx: _gone_files(tx, row))
    if purged.more or files.more:
        return True
    for session_id in await database.read(lambda tx: news_of_erased(tx, row.id, AT_ONCE)):
        await deliver(app, session_id)
    if await database.read(lambda tx: erased_ids(tx, row.id)):
        return False
    if user is not None and await database.read(lambda tx: has_sessions(tx, row.org_id, user)):
        return False
    await _go_to(app, row, "index" if user is None else "user")
    return True


async def _older_answers(app: App, row: ErasureRow) -> None:
    """Remove a batch of answers that name a session, and were stored before rows said what they are about.

    The place: the last key that was looked at.
    """
    (after,) = msgspec.json.decode(row.place, type=tuple[str])
    ids = await app.database.read(lambda tx: erased_ids(tx, row.id))
    page = await app.database.read(lambda tx: unnamed_answers(tx, row.org_id, after), long=True)
    doomed = {key: len(body) for key, body in page if not ids.isdisjoint(_sessions_in(body))}

    async def remove(tx: Tx) -> None:
        async with erasing(tx, row.org_id, row.id) as tally:
            tally.add("idempotency_answers", len(doomed), sum(doomed.values()))
            await remove_answers(tx, row.org_id, list(doomed))

    if doomed:
        await app.database.write(remove)
    await _change(app, row, {"place": to_json([page[-1][0]]) if page else _PURGING})


async def _gone_files(tx: Tx, row: ErasureRow) -> Purged:
    async with overwriting(tx):
        return await purge_erased_files(tx, row.org_id)


def _sessions_in(body: bytes) -> list[str]:
    return _SESSION.findall(body.decode(errors="replace"))


async def _mark(tx: Tx, row: ErasureRow, user: UserId | None, now: Micros) -> None:
    """Let the erasure have sessions that were deleted before."""
    found = 0 if user is None else await mark_deleted_of_user(tx, row.org_id, user, row.id)
    while more := await mark_below(tx, row.id):
        found += more
    current = await lock_erasure(tx, row.id) if found else None
    if current is not None and EARLIER not in current.remaining():
        await change_erasure(tx, current, {"remains": to_json((*current.remaining(), EARLIER))}, now)


async def _delete(app: App, row: ErasureRow, session_id: SessionId) -> bool:
    """Delete a session for the erasure; return False if that is not possible now."""

    async def first(tx: Tx, session: SessionRow) -> ErasureId | None:
        return row.id

    try:
        await remove_session(app, row.org_id, session_id, first)
    except (NotFound, Conflict):  # it is gone, or was put under legal hold meanwhile: the erasure waits
        return False
    return True


async def _user(app: App, row: ErasureRow) -> bool:
    """Erase what else a user has. The place: which table is pseudonymized, and after which row."""
    database, user, pseudonym = app.database, UserId(row.subject_id), row.pseudonym or ""
    memories = await database.read(lambda tx: memories_of(tx, row.org_id, user))
    if memories:
        await database.write(lambda tx: erase_memory(tx, row.org_id, row.id, memories[0]))
        return True
    number, at, last = (0, -1, "") if not row.place else msgspec.json.decode(row.place, type=_Place)
    if number < len(PSEUDONYMIZED):

        async def page(tx: Tx) -> tuple[int, str] | None:
            names = PSEUDONYMIZED[number]
            return await pseudonymize(tx, row.org_id, row.id, names, user, pseudonym, (at, last))

        after = await database.write(page)
        await _go_to(app, row, "user", (number + 1, -1, "") if after is None else (number, *after))
        return True

    if await database.write(lambda tx: erase_answers(tx, row.org_id, row.id, user)):
        return True

    async def rows(tx: Tx) -> None:
        await erase_rows_of_user(tx, row.org_id, row.id, user)
        await forget_maker(tx, row.org_id, user, pseudonym)

    await database.write(rows)
    await _go_to(app, row, "index")
    return True


_Place = tuple[int, int, str]


async def _index(app: App, row: ErasureRow) -> bool:
    """Let the search index forget sessions that are gone. The place: a segment and the last term seen to."""
    segment, term = (
        (-1, None) if not row.place else msgspec.json.decode(row.place, type=tuple[int, str | None])
    )
    if term is None:
        following = await app.database.read(lambda tx: next_segment(tx, row.org_id, segment))
        if following is None:
            began = await app.database.read(database_time)
            await _go_to(app, row, "contents", began)
            return True
        segment, term = following, ""

    async def batch(tx: Tx) -> str | None:
        async with erasing(tx, row.org_id, row.id) as tally:
            changed, last = await forget_absent(tx, row.org_id, segment, term or "")
            tally.add("search_terms", changed)
        return last

    await _go_to(app, row, "index", (segment, await app.database.write(batch)))
    return True


async def _contents(app: App, row: ErasureRow) -> bool:
    """Remove contents that nothing refers to. The place: when that began, by the database's clock.

    A transaction that has seen a file may be about to give its content to another one, so those that are open
    have to end first, and so do copies of large workspaces.
    """
    began, now = msgspec.json.decode(row.place, type=int), app.now()

    async def is_early(tx: Tx) -> bool:
        return await has_older_transactions(tx, began) or await copies_are_made(tx, row.org_id, now)

    if now - row.updated_at < KEPT and await app.database.read(is_early):
        return False

    async def batch(tx: Tx) -> bool:
        async with erasing(tx, row.org_id, row.id) as tally:
            return (await purge_erased_blobs(tx, row.org_id, tally)).more

    if not await app.database.write(batch):
        await _go_to(app, row, "files")
    return True


async def _files(app: App, row: ErasureRow) -> bool:
    """Remove what is left in the database's files, once for all erasures that are so far, and finish them."""
    ready = [each for each in await app.database.read(running_erasures) if each.stage == row.stage]
    try:
        whole = await app.database.scrub()
    except Unavailable as error:
        if error.cause in ("busy", "locked"):
            return False
        raise
    for each in ready:
        remains = each.remaining() if whole else (*each.remaining(), _unscrubbed(app.database.dialect))
        changes: Changes = {
            "stage": "finished",
            "place": "",
            "pseudonym": None,
            "remains": to_json(remains),
            "finished_at": app.now(),
        }
        await _change(app, each, changes)
    return False


def _unscrubbed(dialect: str) -> Remaining:
    if dialect == "postgres":
        return Remaining(
            "dead_rows",
            "PostgreSQL keeps deleted rows in its files until it vacuums their tables, as it does by itself,"
            " and in its write-ahead log until that is recycled; `VACUUM` does the first at once",
        )
    return Remaining(
        "gaps",
        "copies may be in gaps of the pages of this large database until they are used again: to remove them"
        ' at once, stop the server and run `sqlite3 perdure.db "VACUUM"` in the data folder',
    )
