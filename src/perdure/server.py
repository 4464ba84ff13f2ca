"""Starts the server and drains it: listening socket, signals, worker and background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import logging
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from perdure.api.kernel.authentication import Authenticate, as_owner, by_token
from perdure.api.kernel.connections import SPARE, ConnectionLimits, Connections
from perdure.api.kernel.http import Api
from perdure.api.kernel.route import Route
from perdure.app.accounts import bootstrap
from perdure.app.login import login_required
from perdure.app.predefined import LocalModel, add_predefined, set_local_model
from perdure.app.rate_limit import RateLimit
from perdure.app.task_news import deliver
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden, InvalidInput, Unavailable
from perdure.domain.processes import Role
from perdure.domain.visible import visible_line
from perdure.doors.prometheus import metrics_route
from perdure.listening import http_server, listen
from perdure.logs import LogWriter, start_log
from perdure.observed import Observed
from perdure.routing import ThisProcess, all_routes, door_routes, health_routes
from perdure.sandbox.confinement import hide_memory, landlock_version
from perdure.settings import Settings
from perdure.stopping import Stopping
from perdure.store.parked_turns import complete_parked
from perdure.store.providers import has_usable_model
from perdure.wiring import Parts, load_tools, open_parts
from perdure.worker.background import BackgroundTools
from perdure.worker.budgets import BudgetSweep
from perdure.worker.consent import Resumer
from perdure.worker.erasures import Eraser
from perdure.worker.limits import LimitSweep
from perdure.worker.presence import Presence
from perdure.worker.retention import RetentionSweep
from perdure.worker.scheduler import Scheduler
from perdure.worker.sorter import Sorter
from perdure.worker.sweep import STALE_AFTER, Sweep
from perdure.worker.tasks import TaskSweep
from perdure.worker.webhooks import Deliverer
from perdure.worker.worker import Worker

log = logging.getLogger("perdure")


async def serve(
    settings: Settings,
    announce: Callable[[str], None] | None = None,
    local_model: LocalModel | None = None,
    role: Role = "all",
) -> None:
    """Run the server until SIGTERM or SIGINT, then drain it.

    Args:
        role: a worker listens as well, but only for `/health` and `/metrics`.
        announce: called with each line for the person who starts the server, first
            `listening on http://...`; prints it by default.
        local_model: a model that this machine runs for the server.

    Raises:
        Unavailable, Forbidden, InvalidInput: the server cannot start; the message says what to do.
    """
    if role != "all" and not settings.database_url:
        raise InvalidInput(
            f"`perdure {role}` needs PostgreSQL, so that several processes can share the work: set "
            "PERDURE_DATABASE_URL, or run everything in one process with `perdure serve`",
            code="invalid_setting",
        )
    writer = start_log(settings)
    _raise_file_limit()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        faulthandler.enable(sys.stderr)  # a process that is aborted leaves at least its stack
    stopping = Stopping(settings.drain_delay_seconds + settings.drain_seconds)
    try:
        with stopping.handled():
            await _serve(settings, stopping, announce or _print, local_model, role, writer)
    finally:
        writer.flush()


_MMAP_THRESHOLD = -3
"""Number of the C library's option, from malloc.h."""
LARGE = 4 * 1024 * 1024
"""Bytes of a block of memory that goes back to the system as soon as it is free."""


def _return_large_blocks() -> None:
    """Have the C library return large blocks at once.

    It would raise its limit to 32 MB by itself, and then keep what pages and uploads took.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such option
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)


async def _serve(
    settings: Settings,
    stopping: Stopping,
    announce: Callable[[str], None],
    local_model: LocalModel | None,
    role: Role,
    writer: LogWriter,
) -> None:
    _return_large_blocks()
    hidden = not settings.debuggable and hide_memory()
    async with open_parts(settings, load_tools(settings)) as parts:
        _log_protections(hidden=hidden)
        owner = await bootstrap(parts.app)
        if not settings.database_url:
            await set_local_model(parts.app, owner.organization_id, local_model)
        authenticate = await _prepare(settings, parts, owner, role)
        background = BackgroundTools(parts.engine, parts.app)
        worker = Worker(parts.engine, partial(deliver, parts.app), background)
        closing = asyncio.Event()
        process = ThisProcess(closing, lambda: worker.running, stopping.asked.is_set)
        observed = Observed(parts, worker, writer)
        routes = _routes(settings, process, observed, owner, role)
        api = Api(parts.app, routes, authenticate, observed.access)

        def close() -> None:
            closing.set()
            parts.app.waiters.end()

        listener = listen(settings.host, settings.port)
        if not parts.engine.public.url:
            parts.engine.public.url = _url_of(listener)
        await complete_parked(parts.database)
        await parts.app.meter.refresh(parts.database, parts.app.now())
        grace, asked = settings.drain_seconds, process.draining
        presence = Presence(parts.app, worker, role, settings.max_turns, grace, asked)
        works = [LimitSweep(parts.app).run()] if role == "api" else await _start_working(parts, worker)
        with _at_work([*works, presence.run()]):
            gc.collect()
            gc.freeze()
            gc.enable()  # the command disables it while it imports
            async with observed.served(settings):
                greet = partial(_greet, settings, parts, owner, announce, local_model, role)
                connections = observed.connections(_connection_limits(settings))
                await _run(settings, api, connections, listener, worker, close, stopping, greet)
        await presence.leave()


def _routes(
    settings: Settings, process: ThisProcess, observed: Observed, owner: Caller, role: Role
) -> tuple[Route, ...]:
    metrics = metrics_route(observed.scrapes, owner.organization_id)
    if role == "worker":
        return (*health_routes(settings, process), metrics)
    return (*all_routes(settings, process), *door_routes(process.closing), metrics)


async def _start_working(parts: Parts, worker: Worker) -> list[Coroutine[Any, Any, None]]:
    """Start to run turns, and return what a process that runs turns does beside them."""
    await worker.start()
    sweep = Sweep(parts.engine, worker)
    # On SQLite this is the only process, so nobody can be running what is active now.
    left = await sweep.once(stale_after=0 if parts.database.dialect == "sqlite" else STALE_AFTER)
    if left:
        log.warning("the last server stopped in the middle of %d turns: they are resumed", left)
    works = [
        sweep.run(),
        Scheduler(parts.app).run(),
        Resumer(parts.app).run(),
        TaskSweep(parts.app, parts.engine.clock).run(),
        BudgetSweep(parts.app, parts.engine.clock).run(),
        LimitSweep(parts.app).run(),
        Deliverer(parts.app).run(),
        Sorter(parts.database).run(),
        RetentionSweep(parts.app, parts.engine.clock).run(),
        Eraser(parts.app, parts.engine.clock).run(),
    ]
    if parts.traces is not None:
        from perdure.worker.traces import TraceExporter  # most servers export no traces

        works.append(TraceExporter(parts.app, parts.traces).run())
    return works


@contextlib.contextmanager
def _at_work(works: Iterable[Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run this beside the block, until that ends."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def _log_protections(*, hidden: bool) -> None:
    version = landlock_version()
    log.info(
        "memory and environment: %s; sandbox processes: %s",
        "hidden from the user's other processes" if hidden else "readable by the user's other processes",
        f"confined to their own files by Landlock {version}"
        if version
        else "not confined to their own files (this system has no Landlock)",
    )


async def _prepare(settings: Settings, parts: Parts, owner: Caller, role: Role) -> Authenticate:
    """Create the providers that the environment has keys for.

    Returns:
        The way in which requests are authenticated: by token, or as the owner on loopback without tokens.

    Raises:
        Forbidden: a server without a login would be reachable from other machines.
    """
    parts.app.drivers.lend_environment(owner.organization_id)
    for name in await add_predefined(parts.app, owner.organization_id):
        log.info("%s is set up: its key is in the environment", name)
    if role == "worker" or await login_required(parts.app):
        return by_token(parts.app, RateLimit(settings.rate_limit))
    if not settings.is_loopback:
        raise Forbidden(
            f"refusing to listen on {settings.host} without a login: "
            "create an access token with `perdure keys create` first, or listen on 127.0.0.1"
        )
    return as_owner(parts.app, owner)


async def _greet(
    settings: Settings,
    parts: Parts,
    owner: Caller,
    announce: Callable[[str], None],
    local_model: LocalModel | None,
    role: Role,
    url: str,
) -> None:
    """Say where the server listens and keeps its data, and what is missing before it can be used."""
    announce(f"listening on {url}")
    if role == "worker":
        announce(
            f"worker: it runs up to {settings.max_turns:,} turns, and serves only {url}/health and /metrics"
        )
    else:
        announce(f"docs: {url}/docs")
    if settings.database_url:
        announce(f"data: PostgreSQL at {urlsplit(settings.database_url).hostname}")
    else:
        announce(f"data: {settings.data_folder.resolve()}")
    if role == "worker":
        return
    if local_model is not None:
        announce(f"model: {local_model.title}, on this machine; `perdure chat` talks to it")
        return
    with contextlib.suppress(Unavailable):  # a hint only
        if not await parts.app.database.read(lambda tx: has_usable_model(tx, owner.organization_id)):
            announce(
                "no model yet: register one with `perdure providers add`, "
                "or restart with --local-model, or with OPENAI_API_KEY or ANTHROPIC_API_KEY set"
            )


def _print(line: str) -> None:
    print(visible_line(line), flush=True)  # noqa: T201 (scripts wait for the first line)


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _run(
    settings: Settings,
    api: Api,
    connections: Connections,
    listener: socket.socket,
    worker: Worker,
    close: Callable[[], None],
    stopping: Stopping,
    greet: Callable[[str], Awaitable[None]],
) -> None:
    server = http_server(api, connections, settings.keep_alive_seconds)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    sweeping = asyncio.create_task(connections.run())
    while not server.started and not serving.done():  # noqa: ASYNC110 (uvicorn offers no event to wait for)
        await asyncio.sleep(0.001)
    stopping.start()
    await greet(_url_of(listener))
    asked = asyncio.create_task(stopping.asked.wait())
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    if settings.drain_delay_seconds and not serving.done():
        # `/health/ready` tells load balancers to send requests elsewhere, and until they do, all are served.
        await asyncio.wait({serving}, timeout=settings.drain_delay_seconds)
    unfinished = await worker.drain(settings.drain_seconds)
    if unfinished:
        log.info("%d running turns did not finish: they resume at the next start", unfinished)
    close()
    server.should_exit = True
    await serving
    sweeping.cancel()


def _raise_file_limit() -> None:
    """Raise the limit of open files as far as the system allows: every follower needs a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = hard if hard != resource.RLIM_INFINITY else 65_536
    if soft < target:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def _connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits of connections.

    A part of the files that this process may open is kept for the database, the log, tools and calls of
    models.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = settings.max_connections
    if files != resource.RLIM_INFINITY:
        most = max(1, min(most, files - min(1_000, max(128, files // 4)) - SPARE))
    return ConnectionLimits(most, settings.request_timeout_seconds, settings.write_timeout_seconds)
