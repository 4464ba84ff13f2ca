"""Backups of PostgreSQL through its own programs, `pg_dump` and `pg_restore`.

A dump is of one moment, which the count of the rows shares. A restore is one transaction, so one that was
interrupted leaves nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from perdure.domain.errors import Conflict, Unavailable
from perdure.store.archives import CHUNK, ArchiveReader, ArchiveWriter, Progress
from perdure.store.database import Tx

ENTRY = "database.dump"
"""The dump's name in a backup."""
FOLDERS = ("/usr/lib/postgresql", "/usr/pgsql-*", "/opt/homebrew/opt/postgresql@*", "/usr/local/pgsql")
"""Where packages install PostgreSQL's programs, besides the PATH."""
PIECE = 64 * 1024
"""Bytes of a dump that `pg_restore` is given at a time."""
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_FOR_LIBPQ = frozenset(
    {
        "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslnegotiation", "passfile", "host", "port",
        "hostaddr", "dbname", "user", "target_session_attrs", "connect_timeout", "options", "service",
        "channel_binding", "gssencmode", "krbsrvname", "ssl_min_protocol_version",
    }
)  # fmt: skip
"""What the programs take from a URL; the other parameters are settings of our connections."""


class Tool(NamedTuple):
    """A program of PostgreSQL, and its major version."""

    path: str
    version: int


class Server(NamedTuple):
    """A database, as the programs are told to reach it: without the password, which others could read."""

    url: str
    environment: dict[str, str]
    secrets: tuple[str, ...]


def server_at(url: str) -> Server:
    """Split a database's URL for the programs."""
    parts = urlsplit(url)
    password = unquote(parts.password or "")
    query = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "password":
            password = password or value
        elif name in _FOR_LIBPQ:
            query.append((name, value))
    place = parts.netloc.rpartition("@")[2]
    user = parts.username
    netloc = f"{user}@{place}" if user else place
    environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    environment.pop("PERDURE_DATABASE_URL", None)
    plain = urlunsplit(("postgresql", netloc, parts.path, urlencode(query), ""))
    return Server(plain, environment, (password,) if password else ())


def find_tool(name: str, least: int, folder: Path | None) -> Tool:
    """Find a program that is new enough.

    Args:
        least: the oldest major version that will do.
        folder: where to look; otherwise on the PATH and where packages install it.

    Raises:
        Unavailable: there is none; the message says how to install one.
    """
    found = [tool for path in _candidates(name, folder) if (tool := _tool_at(path)) is not None]
    good = [tool for tool in found if tool.version >= least]
    if good:
        return min(good, key=lambda tool: tool.version)
    old = max((tool.version for tool in found), default=None)
    place = f" in {folder}" if folder is not None else ""
    what = f"there is no {name}{place}" if old is None else f"the newest {name}{place} is of PostgreSQL {old}"
    raise Unavailable(
        f"{what}, and this needs {name} of PostgreSQL {least} or newer. Install it, for example with `apt-get"
        f" install postgresql-client-{least}` (packages of every version are at"
        " https://www.postgresql.org/download/), or name its folder with --pg-bin",
        code="tool_missing",
    )


def _candidates(name: str, folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder / name
        return
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path)
    for pattern in FOLDERS:
        root = Path("/")
        for each in sorted(root.glob(pattern[1:])):
            yield from sorted(each.glob(f"*/bin/{name}"))
            yield each / "bin" / name


def _tool_at(path: Path) -> Tool | None:
    try:
        said = subprocess.run(  # noqa: S603 - a program of PostgreSQL
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(said)
    return None if match is None else Tool(str(path), int(match[1]))


async def server_version(tx: Tx) -> int:
    """Return the server's major version."""
    found = await tx.one("SELECT current_setting('server_version_num')::int / 10000")
    return 0 if found is None else int(found[0])


class About(NamedTuple):
    """A database: the server's major version, its size in bytes, its newest migration, its master key."""

    version: int
    size: int
    migration: int
    master_key: str | None


async def describe(tx: Tx) -> About:
    """Describe a database of Perdure. Raises Unavailable: it is none."""
    found = await tx.one("SELECT to_regclass('migrations')::text")
    if found is None or found[0] is None:
        raise Unavailable("the database has no tables of Perdure: is PERDURE_DATABASE_URL the right one?")
    row = await tx.one(
        "SELECT pg_database_size(current_database()), (SELECT MAX(number) FROM migrations),"
        " (SELECT master_id FROM sealing WHERE one = 1)"
    )
    size, migration, key = (0, 0, None) if row is None else row
    return About(await server_version(tx), size, migration or 0, key)


async def export_snapshot(tx: Tx) -> str:
    """Return the name under which another connection sees the same moment as this transaction."""
    found = await tx.one("SELECT pg_export_snapshot()")
    return "" if found is None else str(found[0])


async def count_rows(tx: Tx) -> dict[str, int]:
    """Count the rows of each table that survives a crash of the server."""
    names = await tx.all(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p'"
        " AND relnamespace = current_schema()::regnamespace ORDER BY 1"
    )
    counts = {}
    for (name,) in names:
        found = await tx.one(f'SELECT COUNT(*) FROM "{name}"')
        counts[name] = 0 if found is None else int(found[0])
    return counts


async def check_empty(tx: Tx) -> None:
    """Check that a database has no table, and that nobody restores into it. Raises Conflict."""
    if await tx.one(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'pg_restore'"
    ):
        raise Conflict(
            "a restore into this database is running, perhaps one that was interrupted: wait for its end",
            code="restore_running",
        )
    found = await tx.all(
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm')"
        " AND relnamespace = current_schema()::regnamespace ORDER BY 1 LIMIT 3"
    )
    if found:
        raise Conflict(
            f"the database is not empty (it has {', '.join(row[0] for row in found)}): a backup is restored"
            " into an empty one, so that nothing is lost",
            code="target_not_empty",
        )


def write_dump(
    tool: Tool, server: Server, snapshot: str, archive: ArchiveWriter, progress: Progress, size: int
) -> None:
    """Add a dump of the database at a snapshot to a backup. It blocks.

    Args:
        size: about how large the database is, in bytes.

    Raises:
        Unavailable: `pg_dump` failed; the message has what it said.
    """
    command = [
        tool.path, "--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data",
        f"--snapshot={snapshot}", f"--dbname={server.url}",
    ]  # fmt: skip
    with _running(command, server, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise AssertionError("it was started with a pipe")
        archive.add(ENTRY, process.stdout, progress, size, packed=True)


def read_dump(tool: Tool, server: Server, archive: ArchiveReader, progress: Progress) -> None:
    """Restore the dump of a backup in one transaction. It blocks.

    Raises:
        Unavailable: `pg_restore` failed; the message has what it said. Nothing was restored.
    """
    command = [
        tool.path, "--format=custom", "--single-transaction", "--exit-on-error", "--no-owner",
        "--no-privileges", f"--dbname={server.url}",
    ]  # fmt: skip
    total, done = archive.manifest.contents[ENTRY].bytes, 0
    with _running(command, server, stdin=subprocess.PIPE) as process:
        if process.stdin is None:
            raise AssertionError("it was started with a pipe")
        try:
            for chunk in archive.chunks(ENTRY):
                for first in range(0, len(chunk), PIECE):
                    done += process.stdin.write(chunk[first : first + PIECE])
                    progress("restoring the database", done, total)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has failed, and says why


@contextmanager
def _running(
    command: list[str], server: Server, *, stdin: int | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program. It is killed with the block, and its failure is an error."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - a program of PostgreSQL
            command,
            env=server.environment,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=said,
        )
        try:
            yield process
            if process.wait() != 0:
                raise _failed(command[0], said, server)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None and not pipe.closed:
                    _close(pipe)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return


def _failed(program: str, said: IO[bytes], server: Server) -> Unavailable:
    said.seek(0)
    text = said.read(CHUNK).decode(errors="replace").strip()
    for secret in server.secrets:
        text = text.replace(secret, "***")
    return Unavailable(f"{Path(program).name} failed: {text or 'it said nothing'}", code="tool_failed")
