"""What the server keeps for a fixed time only: one table, which the worker goes through once a minute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from perdure.domain.tasks import KEPT as TASKS_KEPT
from perdure.domain.times import Micros
from perdure.domain.webhooks import KEPT as DELIVERIES_KEPT
from perdure.store.blobs import KEPT as CONTENTS_KEPT
from perdure.store.blobs import purge_blobs
from perdure.store.callbacks import purge_callbacks
from perdure.store.connections import purge_sign_ins
from perdure.store.database import Purged, Tx
from perdure.store.gone_files import purge_gone
from perdure.store.idempotency import KEPT as ANSWERS_KEPT
from perdure.store.idempotency import purge_answers
from perdure.store.inbox_links import purge_inbox_links
from perdure.store.input_requests import KEPT as REQUESTS_KEPT
from perdure.store.input_requests import purge_input_requests
from perdure.store.retention import DAY, REPORTED, purge_counts
from perdure.store.session_deletion import KEPT as SESSIONS_KEPT
from perdure.store.session_deletion import purge_deleted
from perdure.store.tasks import purge_tasks
from perdure.store.webhook_deliveries import purge_deliveries, purge_lines


class Purge(Struct, frozen=True):
    """Something that is removed once it is old.

    Attributes:
        kind: what clients read.
        kept: for how many microseconds it is kept.
        since: since when these count, for people.
        batch: removes a batch; receives the present time. Batches are bounded, so that other writes come in
            between, and can be repeated by any number of processes.
    """

    kind: str
    kept: Micros
    since: str
    batch: Callable[[Tx, Micros], Awaitable[Purged]]


PURGES: tuple[Purge, ...] = (
    Purge(
        "deleted_sessions",
        SESSIONS_KEPT,
        "the deletion",
        lambda tx, now: purge_deleted(tx, now - SESSIONS_KEPT, now + SESSIONS_KEPT),
    ),
    Purge(
        "files_of_deleted_sessions",
        0,
        "the deletion",
        lambda tx, now: purge_gone(tx, now, now + 2 * SESSIONS_KEPT),
    ),
    Purge(
        "contents",
        CONTENTS_KEPT,
        "the last file that had it",
        lambda tx, now: purge_blobs(tx, now - CONTENTS_KEPT),
    ),
    Purge(
        "idempotency_answers",
        ANSWERS_KEPT,
        "the request",
        lambda tx, now: purge_answers(tx, now - ANSWERS_KEPT),
    ),
    Purge(
        "callbacks",
        ANSWERS_KEPT,
        "the answer or the deadline",
        lambda tx, now: purge_callbacks(tx, now - ANSWERS_KEPT),
    ),
    Purge("inbox_links", 0, "the deadline", purge_inbox_links),
    Purge("sign_ins", 0, "the deadline", purge_sign_ins),
    Purge(
        "input_requests",
        REQUESTS_KEPT,
        "the deadline",
        lambda tx, now: purge_input_requests(tx, now - REQUESTS_KEPT),
    ),
    Purge("tasks", TASKS_KEPT, "the end", lambda tx, now: purge_tasks(tx, now - TASKS_KEPT)),
    Purge(
        "webhook_deliveries",
        DELIVERIES_KEPT,
        "the event",
        lambda tx, now: _purge_deliveries(tx, now - DELIVERIES_KEPT),
    ),
    Purge("retention_counts", REPORTED * DAY, "the day", purge_counts),
)


async def _purge_deliveries(tx: Tx, before: Micros) -> Purged:
    purged = await purge_deliveries(tx, before)
    if not purged.more:
        await purge_lines(tx)
    return purged
