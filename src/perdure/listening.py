"""Listening sockets, and the HTTP server on one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from functools import partial
from typing import cast

import uvicorn

from perdure.api.kernel.connections import Connections
from perdure.api.kernel.http import Api
from perdure.api.kernel.protocol import HttpProtocol
from perdure.domain.errors import Unavailable


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: on a signal, we drain the worker before uvicorn stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `Stopping`."""
        yield


def http_server(api: Api, connections: Connections, keep_alive: float) -> HttpServer:
    """Build the server of an application. `keep_alive`: seconds that a connection may be idle."""
    config = uvicorn.Config(
        api,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=cast("type[asyncio.Protocol]", partial(HttpProtocol, connections)),
        ws="none",
        server_header=False,
        date_header=False,
        timeout_keep_alive=cast("int", keep_alive),
        timeout_graceful_shutdown=5,
        backlog=4096,
        limit_concurrency=None,
        proxy_headers=False,
    )
    return HttpServer(config)


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Open a listening socket.

    Args:
        option: what chooses another port, for the message.

    Raises:
        Unavailable: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        advice = (
            f" (is a server already running? choose another port with {option})"
            if error.errno == errno.EADDRINUSE
            else ""
        )
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}{advice}") from error
    listener.listen(4096)
    listener.setblocking(False)
    return listener
