"""What an erasure does not reach, and why: for its receipt."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.domain.erasures import Remaining
from perdure.domain.ids import SessionId, UserId
from perdure.store.database import Tx
from perdure.store.erasures import ErasureRow
from perdure.store.left_behind import (
    calls_of_tree,
    calls_of_user,
    forks_of,
    has_shared_images,
    sessions_joined,
    versions_of_session,
    versions_of_user,
)

ALWAYS = (
    Remaining("backups", "backups and exports that were made before have it until you delete them"),
    Remaining(
        "outside",
        "what left the server stays there: at model providers, tools, webhooks, collectors of traces, and"
        " readers of the session",
    ),
)
EARLIER = Remaining(
    "contents",
    "files of sessions that were deleted before this erasure leave the database within an hour of that",
)
_IMAGES = Remaining(
    "images",
    "images that were uploaded without naming a session belong to the organization: delete them one by one",
)


async def remaining_of(app: Services, row: ErasureRow) -> tuple[Remaining, ...]:
    """Return what an erasure leaves, counted before it begins."""

    async def work(tx: Tx) -> list[Remaining]:
        if row.kind == "session":
            return await _of_session(tx, row, SessionId(row.subject_id))
        return await _of_user(tx, row, UserId(row.subject_id))

    found = await app.database.read(work, long=True)
    if await app.database.read(lambda tx: has_shared_images(tx, row.org_id)):
        found.append(_IMAGES)
    return (*found, *ALWAYS)


_CALLS = "the ledger keeps what model calls have cost, without their content"
_CALLS_OF_USER = f"{_CALLS} and with another id in place of the user's"
_FORKS = "forks are sessions of their own: erase them, too"
_VERSIONS = "what the session wrote into memories belongs to these: delete or redact it there"
_VERSIONS_OF_USER = (
    "what the user wrote into memories of agents and of the organization belongs to these: redact it there"
)
_OTHERS = (
    "what the user wrote in sessions of others is part of their logs, which are never changed: erase these"
    " sessions, too. The number is of those that the user has joined"
)


async def _of_session(tx: Tx, row: ErasureRow, session_id: SessionId) -> list[Remaining]:
    return _some(
        ("model_calls", _CALLS, await calls_of_tree(tx, row.org_id, session_id)),
        ("forks", _FORKS, await forks_of(tx, row.org_id, session_id)),
        ("memory_versions", _VERSIONS, await versions_of_session(tx, row.org_id, session_id)),
    )


async def _of_user(tx: Tx, row: ErasureRow, user_id: UserId) -> list[Remaining]:
    return _some(
        ("model_calls", _CALLS_OF_USER, await calls_of_user(tx, row.org_id, user_id)),
        ("sessions_of_others", _OTHERS, await sessions_joined(tx, row.org_id, user_id)),
        ("memory_versions", _VERSIONS_OF_USER, await versions_of_user(tx, row.org_id, user_id)),
    )


def _some(*found: tuple[str, str, int]) -> list[Remaining]:
    return [Remaining(kind, reason, items) for kind, reason, items in found if items]
