"""Assembles the parts from the settings. Only this module and `server` import every ring."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import astuple, replace

from perdure.app.accounts import bootstrap
from perdure.app.audits import audited_app
from perdure.app.context import App, Services
from perdure.app.login import create_token
from perdure.capabilities.arguments import ArgumentChecks
from perdure.capabilities.guard_services import GuardServices
from perdure.capabilities.plugins import load_plugins
from perdure.capabilities.port import Capability
from perdure.capabilities.public_url import PublicUrl
from perdure.capabilities.registry import Family, Registry
from perdure.domain.accounts import CreateToken
from perdure.domain.audits import Origin
from perdure.domain.code import CodeBackEnd, CodeLimits
from perdure.domain.errors import InvalidInput, Unavailable
from perdure.domain.files import FileLimits
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.metrics import Metrics
from perdure.domain.trace_settings import TraceSettings, read_trace_settings
from perdure.engine.context import Engine, Policy, SystemClock
from perdure.engine.conversation_cache import ConversationCache
from perdure.engine.scaled_images import ImageScaler
from perdure.llm.catalog import Catalog
from perdure.llm.http import Http
from perdure.llm.registry import DriverPool
from perdure.net.hook_http import HookClient
from perdure.net.mcp.lazy import LazyHosts
from perdure.sandbox.pool import Sandbox
from perdure.settings import Settings
from perdure.store.audit_tables import TOKEN, Audited
from perdure.store.bus import Bus, LocalBus, Stop
from perdure.store.callbacks import signing_key
from perdure.store.crypto import Vault
from perdure.store.data_folder import LOCK, open_file, prepare_folder
from perdure.store.database import Database
from perdure.store.master_key import (
    hold_key_files,
    key_id,
    make_key_file,
    new_master_key,
    parse_master_key,
    promote_key,
    read_key_files,
    stage_key,
)
from perdure.store.measured import MeasuredDatabase
from perdure.store.meter import Meter
from perdure.store.migrate import migrate
from perdure.store.queue import LocalQueue, Queue
from perdure.store.sqlite import open_sqlite
from perdure.store.sqlite_files import check_restored
from perdure.tools.built_in import built_in, catalogue
from perdure.tools.mcp.family import mcp_families

log = logging.getLogger("perdure")


class Parts(Struct, frozen=True):
    """The parts of a running process."""

    database: Database
    bus: Bus
    queue: Queue
    app: App
    engine: Engine
    traces: TraceSettings | None = None
    """How the traces of turns are exported; None if they are not."""


LET_GO = 1.0
"""Seconds in which a data folder that is locked may become free."""


class _Spawner:
    """Starts background tasks and holds references to them: asyncio itself keeps only weak ones."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[None]] = set()

    def __call__(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _lock(handle: int) -> bool:
    """Lock a file for this process; return whether nobody else has.

    A server that was killed may leave a child for a moment, which has its files until it runs its program.
    """
    until = time.monotonic() + LET_GO
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        else:
            return True


@contextlib.contextmanager
def lock_folder(settings: Settings) -> Iterator[None]:
    """Lock the data folder for this process, because only one process may write our SQLite database.

    Raises:
        Unavailable: another server has locked the folder, or it cannot be used.
    """
    prepare_folder(settings.data_folder)
    try:
        handle = open_file(settings.data_folder / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise Unavailable(f"cannot use the data folder {settings.data!r}: {error.strerror}") from error
    try:
        if not _lock(handle):
            raise Unavailable(
                f"another Perdure server uses the data folder {settings.data!r}: stop it first. "
                "To run several processes, set PERDURE_DATABASE_URL to a PostgreSQL database."
            )
        yield
    finally:
        os.close(handle)


def load_tools(settings: Settings) -> tuple[Capability, ...]:
    """Execute the files with tools that the settings name.

    Raises:
        InvalidInput: `invalid_tools`; the message lists all mistakes in them.
    """
    if not settings.tools:
        return ()
    from perdure.capabilities.tool_files import load_tool_files  # most servers have no such files

    known = catalogue()
    return load_tool_files(settings.tool_files, (*known, *load_plugins(known)))


def code_back_end(settings: Settings) -> CodeBackEnd | None:
    """Where programs of models run; None if that is off.

    Raises:
        InvalidInput: `invalid_setting`: there is no such back end, or it cannot be used here.
    """
    kind = settings.code_interpreter
    if kind == "off":
        return None
    # Most servers have none, so each is imported when it is configured.
    limits = CodeLimits(
        seconds=settings.code_seconds,
        memory_bytes=settings.code_memory_bytes,
        processes=settings.code_processes,
        output_bytes=settings.code_output_bytes,
        file_bytes=settings.max_file_bytes,
        total_bytes=_file_limits(settings).command,
    )
    if settings.code_network != "none" and kind != "docker":
        raise InvalidInput(
            "PERDURE_CODE_NETWORK names a network of Docker, so it needs PERDURE_CODE_INTERPRETER=docker",
            code="invalid_setting",
        )
    if kind.startswith(("http://", "https://")):
        from perdure.net.code_service import CodeService

        return CodeService(limits, kind, settings.code_token)
    from perdure.sandbox.code_places import Bubblewrap, Docker

    match kind:
        case "bubblewrap":
            return Bubblewrap(limits, settings.code_python)
        case "docker":
            return Docker(limits, settings.code_image, settings.code_network)
    raise InvalidInput(
        f"the setting PERDURE_CODE_INTERPRETER must be off, bubblewrap, docker or a URL, not {kind[:40]!r}",
        code="invalid_setting",
    )


def _local_mcp(settings: Settings) -> dict[str, LocalMcpServer]:
    if not settings.mcp_servers:
        return {}
    from perdure.app.local_mcp import read_local_servers

    return read_local_servers(Path(settings.mcp_servers), os.environ)


def _add_custom(
    services: Services,
    capabilities: tuple[Capability, ...],
    custom: tuple[Capability, ...],
    families: tuple[Family, ...],
) -> Registry:
    """All capabilities: the built-in ones, those of plug-ins, the custom ones of files, and MCP servers."""
    added = (*load_plugins(capabilities), *custom)
    if not added:
        return Registry(capabilities, families)
    from perdure.tools.own_services import with_own_services  # only for tools of others

    return Registry((*capabilities, *(with_own_services(services, each) for each in added)), families)


@contextlib.asynccontextmanager
async def open_parts(settings: Settings, custom: tuple[Capability, ...] = ()) -> AsyncIterator[Parts]:
    """Open and migrate the database, and assemble the parts. Closes them on exit.

    Args:
        custom: the capabilities of files with tools (`load_tools`).

    Raises:
        Unavailable: the database, the data folder or the master key cannot be used.
    """
    # Before anything is created: a mistake in these leaves no traces.
    code, local_mcp, traces = code_back_end(settings), _local_mcp(settings), _trace_settings()
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        database, bus, queue = await _open_store(settings, stack, metrics, traces is not None)
        vault = await open_vault(settings, database)
        drivers = DriverPool(os.environ, Http(read_timeout=settings.model_timeout_seconds or None))
        clock, catalog, hooks = SystemClock(), Catalog(), HookClient(settings.private_addresses)
        sandbox, mcp = Sandbox(metrics=metrics), LazyHosts()
        _close_later(stack, drivers.close, mcp.close, hooks.close, sandbox.close)
        services = Services(
            *(database, queue, bus, vault, clock.now),
            file_limits=(limits := _file_limits(settings)),
            sandbox=sandbox,
            code=code,
            public=PublicUrl(settings.public_url),
            private_addresses=settings.private_addresses,
            local_mcp=local_mcp,
            mcp=mcp,
            meter=Meter(settings.limits(), alone=not settings.database_url),
            guard=_guard(settings, database, vault, drivers, catalog),
            metrics=metrics,
            retention=settings.retention,
        )
        registry = _add_custom(services, built_in(services), custom, mcp_families(services, mcp))
        app = App(
            *astuple(services),
            registry=registry,
            drivers=drivers,
            callback_key=await signing_key(database),
            catalog=catalog,
            arguments=ArgumentChecks(sandbox),
        )
        engine = Engine(
            *(database, queue, bus, registry, vault, drivers.driver_for, ConversationCache(), clock),
            *({}, app.callback_key, _policy(settings, limits)),
            catalog=catalog,
            arguments=app.arguments,
            images=ImageScaler(sandbox),
            public=services.public,
            turns=app.turns,
            known=app.known,
            breakers=app.breakers,
            hooks=hooks,
            meter=app.meter,
            guard=services.guard,
            sampler=None if traces is None else traces.sampler,
            metrics=metrics,
        )
        _follow(bus, engine, mcp)
        yield Parts(database, bus, queue, app, engine, traces)


def _close_later(stack: contextlib.AsyncExitStack, *calls: Callable[[], Awaitable[None]]) -> None:
    for call in calls:
        stack.push_async_callback(call)


def _trace_settings() -> TraceSettings | None:
    traces = read_trace_settings(os.environ)
    if traces is not None:
        from perdure.net.otlp import check_library  # most servers export no traces

        check_library()
    return traces


def _guard(
    settings: Settings, database: Database, vault: Vault, drivers: DriverPool, catalog: Catalog
) -> GuardServices:
    return GuardServices(
        *(database, vault, drivers.driver_for, drivers.config_for),
        catalog=catalog,
        private=settings.private_addresses,
    )


def _file_limits(settings: Settings) -> FileLimits:
    limits = FileLimits(settings.max_file_bytes, settings.max_session_file_bytes, settings.max_upload_bytes)
    return replace(limits, command=min(limits.command, limits.workspace))


def _policy(settings: Settings, limits: FileLimits) -> Policy:
    return Policy(
        model_attempts=settings.model_attempts,
        history_tokens=settings.history_tokens,
        max_iterations=settings.max_iterations,
        client_timeout=settings.client_tool_timeout_seconds,
        approval_timeout=settings.approval_timeout_seconds,
        private_addresses=settings.private_addresses,
        file_limits=limits,
    )


def _follow(bus: Bus, engine: Engine, mcp: LazyHosts) -> None:
    """Let go of what other processes change."""
    # What a deleted session leaves is not needed again; that of another one is read again.
    bus.on_stop(partial(_forget, engine, mcp))
    bus.on_grown(engine.known.outdate)


def _forget(engine: Engine, mcp: LazyHosts, stop: Stop) -> None:
    if stop.gone:
        mcp.forget(stop.session_id)
    engine.conversations.discard(stop.session_id)
    engine.turns.discard(stop.session_id)
    engine.known.discard(stop.session_id)


def master_keys(settings: Settings) -> list[bytes]:
    """Return the master keys of this process, the current one first.

    Raises:
        Unavailable: a key is malformed.
    """
    configured = [parse_master_key(key) for key in (settings.master_key, settings.master_key_previous) if key]
    return configured if settings.master_key else [*read_key_files(settings.data_folder), *configured]


async def open_vault(settings: Settings, database: Database) -> Vault:
    """Open the vault of this database.

    Creates a key file if none exists, and completes an interrupted rotation.

    Raises:
        Unavailable: this process does not have the database's current master key.
    """
    if settings.database_url and not settings.master_key:
        prepare_folder(settings.data_folder)
    vault = Vault(lambda: master_keys(settings))
    current = await vault.check(database)
    if settings.master_key:
        return vault
    if current is None:
        if read_key_files(settings.data_folder):
            log.warning(
                "the database is new and empty, but the data folder %s has a master key: if it should hold"
                " your sessions, stop the server and check PERDURE_DATA and PERDURE_DATABASE_URL",
                settings.data_folder,
            )
        make_key_file(settings.data_folder)
        return Vault(lambda: master_keys(settings))
    if len(read_key_files(settings.data_folder)) > 1:
        # If another process holds the files, it is rotating the key and completes that itself.
        with contextlib.suppress(Unavailable), hold_key_files(settings.data_folder, wait=False):
            promote_key(settings.data_folder, current)
    return vault


async def _open_store(
    settings: Settings, stack: contextlib.AsyncExitStack, metrics: Metrics, traces: bool
) -> tuple[Database, Bus, Queue]:
    if not settings.database_url:
        stack.enter_context(lock_folder(settings))
        check_restored(settings.data_folder)
        database = await open_sqlite(settings.data_folder / "perdure.db")
        stack.push_async_callback(database.close)
        database.traces = traces
        await migrate(database)
        return (
            MeasuredDatabase(database, metrics),
            LocalBus(),
            LocalQueue(_Spawner(), settings.max_turns, metrics),
        )
    try:
        from perdure.store.postgres.bus import PostgresBus
        from perdure.store.postgres.database import open_postgres
        from perdure.store.postgres.notify import open_notifier
        from perdure.store.postgres.queue import open_postgres_queue
    except ImportError as error:
        raise Unavailable("PostgreSQL needs more packages: pip install 'perdure[postgres]'") from error

    postgres = await open_postgres(settings.database_url, direct_url=settings.database_direct_url)
    stack.push_async_callback(postgres.close)
    postgres.traces = traces
    await migrate(postgres)
    notifier = await open_notifier(postgres)
    stack.push_async_callback(notifier.close)
    bus = PostgresBus(postgres, notifier)
    stack.push_async_callback(bus.close)
    queue = await open_postgres_queue(postgres, notifier, settings.max_turns, metrics)
    stack.push_async_callback(queue.close)
    return MeasuredDatabase(postgres, metrics), bus, queue


async def create_key(settings: Settings, name: str) -> str:
    """Create an access token for the owner of the first organization, and return its secret.

    Once a token exists, the server requires a login from its next start.
    """
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        origin = Origin(owner.organization_id, None, None, "perdure keys create", by_server=True)
        app = audited_app(parts.app, origin, Audited(TOKEN, only=("created",)))
        token = await create_token(app, owner, CreateToken(name))
        return token.token or ""


class Rotation(Struct, frozen=True):
    """The result of a rotation of the master key.

    Attributes:
        key: the id of the master key that is now current.
        rewrapped: the number of data keys that were wrapped under it.
    """

    key: str
    rewrapped: int


async def rotate_master(settings: Settings, new_key: bytes | None) -> Rotation:
    """Wrap every data key under a new master key.

    The data that they encrypt does not change, so servers may run at the same time. If the master key is a
    setting, the rotation goes from PERDURE_MASTER_KEY_PREVIOUS to PERDURE_MASTER_KEY. Otherwise the key file
    in the data folder is replaced.

    Args:
        new_key: the new key for the key file; a random one if None.

    Raises:
        InvalidInput: the master key is a setting, and the caller gives a key as well or the settings have no
            previous key.
        Unavailable: another server uses the data folder, or another rotation is running.
    """
    folder = settings.data_folder
    if settings.master_key:
        if new_key is not None:
            raise InvalidInput(
                "the master key is a setting: put the new key into PERDURE_MASTER_KEY instead",
                code="invalid_setting",
            )
        if not settings.master_key_previous:
            raise InvalidInput(ROTATION_STEPS, code="invalid_setting")
        async with open_parts(settings) as parts:
            return await _rewrap(parts, parse_master_key(settings.master_key))
    async with open_parts(settings) as parts:
        with hold_key_files(folder, wait=False):
            promote_key(folder, await parts.database.read(parts.app.vault.current))
            key = new_key or new_master_key()
            stage_key(folder, key)
            rotation = await _rewrap(parts, key)
            promote_key(folder, rotation.key)
            return rotation


async def _rewrap(parts: Parts, key: bytes) -> Rotation:
    count = await parts.database.write(lambda tx: parts.app.vault.rewrap(tx, key, parts.app.now()))
    return Rotation(key_id(key), count)


ROTATION_STEPS = """\
the master key is a setting, so the new key must be one too:
  1. on every server, set PERDURE_MASTER_KEY_PREVIOUS to the current key and PERDURE_MASTER_KEY to a new one
     (32 random bytes as base64 or hex, for example from `openssl rand -base64 32`), and restart it; servers
     may restart one after the other;
  2. run this command with the same two settings;
  3. remove PERDURE_MASTER_KEY_PREVIOUS from every server."""
