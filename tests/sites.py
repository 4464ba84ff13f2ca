"""Scripted web servers on this machine, and a name service for them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from perdure.domain.network import NetworkRules

INSIDE = NetworkRules(private=True)
PUBLIC = NetworkRules()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A scripted web server on this machine; it counts its requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | web.Response] = {}
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        answer = self.answers[request.path]
        if isinstance(answer, web.Response):  # a response object can be sent only once
            return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        return await answer(request)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    """Have a handler answer all requests to a port of this machine; yields the port."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    site = Site()
    async with listening(site) as site.port:
        yield site


class Names(AbstractResolver):
    """A name service that returns its answers in order, and then repeats the last one."""

    def __init__(self, **names: list[str]) -> None:
        self._names = {name.replace("_", "."): list(addresses) for name, addresses in names.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self._names:
            raise OSError(f"there is no {host}")
        addresses = self._names[host]
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        pass
