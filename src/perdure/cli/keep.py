"""Backups of a database, restores of backups, and checks: without the server, on its database."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import Data, DatabaseUrl, Json, enter
from perdure.cli.failures import FAILED
from perdure.cli.terminal import Part, Screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.domain.backups import Manifest
    from perdure.domain.verification import Difference

SAY_EVERY = 5.0
"""Seconds between two lines of progress where nobody watches a terminal."""

WithKey = Annotated[
    bool,
    typer.Option("--with-key", help="Also the master key: whoever has the file can read every secret."),
]
Programs = Annotated[
    Path | None,
    typer.Option(
        "--pg-bin", help="The folder of pg_dump and pg_restore.", show_default="the PATH and the usual places"
    ),
]


@contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows progress on standard error: on one line of a terminal, else now and then."""
    screen, said, last = Screen(stderr=True), [""], [0.0]
    with screen.live() as draw:

        def show(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if draw is not None and (now - last[0] > 0.1 or what != said[0]):
                draw([_progress(what, done, total)])
            elif draw is None and (now - last[0] > SAY_EVERY or what != said[0]):
                screen.line(*_progress(what, done, total))
            else:
                return
            said[0], last[0] = what, now

        yield show


def _progress(what: str, done: int, total: int) -> Sequence[Part]:
    if total <= 0:
        return (f"{what} ...",) if done <= 0 else (f"{what}: {done:,}",)
    return (f"{what}: {min(100, 100 * done // total)}%",)


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write. It must not exist.", show_default=False)],
    with_key: WithKey = False,
    programs: Programs = None,
    as_json: Json = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write a backup of the database to a file. Servers may keep running.

    The master key is left out, unless --with-key is given: keep it in another place. Without it, nobody can
    read the secrets in the backup.
    """
    from perdure.keeping import make_backup
    from perdure.settings import load

    settings = load(data=data, database_url=database_url)
    with shown_progress() as show:
        manifest = enter(make_backup(settings, file, show, with_key=with_key, programs=programs))
    screen = Screen()
    if as_json:
        screen.json(manifest)
        return
    screen.line((str(file), "bold"), f": {file.stat().st_size:,} bytes, {_summary(manifest)}.")
    _say_key(manifest, written=True)


def restore(
    file: Annotated[Path, typer.Argument(help="The backup.", show_default=False)],
    with_key: WithKey = False,
    programs: Programs = None,
    as_json: Json = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Restore a backup into an empty data folder, or an empty PostgreSQL database.

    If it is interrupted, nothing is left that a server would use: run it again.
    """
    from perdure.keeping import restore_backup
    from perdure.settings import load

    settings = load(data=data, database_url=database_url)
    with shown_progress() as show:
        manifest = enter(restore_backup(settings, file, show, with_key=with_key, programs=programs))
    screen = Screen()
    if as_json:
        screen.json(manifest)
        return
    where = "the PostgreSQL database" if settings.database_url else str(settings.data_folder)
    screen.line("Restored into ", (where, "bold"), f": {_summary(manifest)}.")
    if not with_key:
        _say_key(manifest, written=False)


def _summary(manifest: Manifest) -> str:
    rows = manifest.rows
    kind = "PostgreSQL" if manifest.database == "postgres" else "SQLite"
    sessions, events = rows.get("sessions", 0), rows.get("events", 0)
    made = f"{kind} at {manifest.created_at}, Perdure {manifest.perdure}"
    return f"{made}, {sessions:,} sessions, {events:,} events"


def _say_key(manifest: Manifest, *, written: bool) -> None:
    """Say where the master key is, or has to be."""
    if manifest.master_key is None:
        return
    screen = Screen(stderr=True)
    if written and manifest.with_key:
        screen.line(
            "The master key is in the file: whoever has the file can read every secret. Lock it away."
        )
    elif written:
        screen.line(
            f"The master key {manifest.master_key} is not in the file. Keep it in another place: without it,"
            " the secrets in the backup cannot be read."
        )
    else:
        screen.line(
            f"The secrets are encrypted under the master key {manifest.master_key}. Before you start a"
            " server, put it into the data folder as master.key, or into PERDURE_MASTER_KEY."
        )


def verify(
    contents: Annotated[
        bool, typer.Option("--contents", help="Also read all contents of files, and compare their hashes.")
    ] = False,
    as_json: Json = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Check a database: fold every log, and compare all rows that follow from it. Servers may keep running.

    Nothing is changed. The exit status is 1 if something differs.
    """
    from perdure.keeping import verify_database
    from perdure.settings import load

    settings, screen = load(data=data, database_url=database_url), Screen()
    tell = screen.json if as_json else partial(_say_difference, screen)
    with shown_progress() as show:
        done = enter(verify_database(settings, tell, show, contents=contents))
    if as_json:
        screen.json(done)
    else:
        screen.line(
            f"Checked {done.sessions:,} sessions with {done.events:,} events,"
            f" and {done.contents:,} contents: ",
            (f"{done.differences:,} differences", "bold red") if done.differences else "no difference",
            ".",
        )
    raise typer.Exit(FAILED if done.differences else 0)


def _say_difference(screen: Screen, each: Difference) -> None:
    where = each.session_id or each.org_id or "the database"
    values = "" if each.expected is None else f": {each.found} instead of {each.expected}"
    screen.line((where, "bold"), f" {each.what}: {each.detail}{values}")
