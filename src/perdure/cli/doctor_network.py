"""What `perdure doctor` checks of a running server, through the URL that clients use."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime

import httpx

from perdure.cli.doctor_database import clock_finding
from perdure.cli.finding import Finding
from perdure.domain.errors import PerdureError

TIMEOUT = 10.0
"""Seconds to wait for an answer."""
FIRST_FRAME = 5.0
"""Seconds to wait for the first frame of a stream, which the server sends at once."""

_NO_BUFFER = (
    "Turn off buffering and compression of text/event-stream: in nginx `proxy_buffering off`, in Apache "
    "`flushpackets=on`, in a CDN the caching and optimizing of this path."
)


async def check_server(url: str, token: str | None, org: str | None, *, providers: bool) -> list[Finding]:
    """Check the server at a URL.

    Args:
        providers: whether to have the server ask each vendor about its key.
    """
    headers = {}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if org:
        headers["x-org-id"] = org
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT) as http:
            found, answers = await _health(http, url)
            if answers:
                found += await _stream(http)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
        return [Finding("server", "fail", f"{url!r} is no URL of a server: {error}", "Begin it with http://")]
    if answers and providers:
        found += await _providers(url, token, org)
    return found


async def _health(http: httpx.AsyncClient, url: str) -> tuple[list[Finding], bool]:
    began = time.time()
    try:
        answer = await http.get("/health")
    except httpx.TransportError as error:
        said = f"no server answers at {url}: {str(error) or type(error).__name__}"
        return [Finding("server", "fail", said, "Start it, or correct the URL.")], False
    try:
        about = answer.json()
        version, status = about["version"], about["status"]
    except (ValueError, KeyError, TypeError):
        said = f"what answers at {url} is no Perdure server (status {answer.status_code})"
        return [Finding("server", "fail", said, "Correct the URL, or the proxy's.")], False
    found = [Finding("server", "ok", f"Perdure {version} answers, and is {status}")]
    if status != "ok":
        detail = str(about.get("detail", "the database cannot be written"))
        found = [Finding("server", "fail", f"it is {status}: {detail}", "Its log has the details.")]
    if date := answer.headers.get("date"):
        try:
            other = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return found, True
        # The header has whole seconds.
        found.append(clock_finding("clock of the URL", began - 1, other, time.time(), "the HTTP date's"))
    return found, True


async def _stream(http: httpx.AsyncClient) -> list[Finding]:
    """Open a stream, and see whether its first frame arrives while it stays open."""
    name = "streaming"
    began = time.monotonic()
    try:
        async with asyncio.timeout(FIRST_FRAME), http.stream("GET", "/v1/inbox/sse") as answer:
            if answer.status_code in (401, 403, 400):
                await answer.aread()
                code = answer.json().get("code", answer.status_code)
                return [Finding(name, "skip", f"the server asks for a login ({code})", "Give a --token.")]
            if answer.status_code != 200:
                return [Finding(name, "fail", f"the stream has the status {answer.status_code}", _NO_BUFFER)]
            seen = b""
            async for chunk in answer.aiter_bytes():
                seen += chunk
                if b"inbox.listening" in seen:
                    break
            else:
                return [Finding(name, "fail", "the stream ended at once", _NO_BUFFER)]
            packed = answer.headers.get("content-encoding")
    except TimeoutError:
        detail = f"nothing of a stream arrived within {FIRST_FRAME:g} seconds: a proxy holds it back"
        return [Finding(name, "fail", detail, _NO_BUFFER)]
    except httpx.TransportError as error:
        return [Finding(name, "fail", f"the stream broke: {str(error) or type(error).__name__}", _NO_BUFFER)]
    if packed:
        return [Finding(name, "warn", f"a proxy compresses streams ({packed})", _NO_BUFFER)]
    return [Finding(name, "ok", f"the first events arrived after {(time.monotonic() - began) * 1000:.0f} ms")]


async def _providers(url: str, token: str | None, org: str | None) -> list[Finding]:
    from perdure.client import Client

    found = []
    try:
        async with Client(url, token, org) as client:
            for provider in await client.list_providers():
                name = f"provider {provider.name}"
                if provider.provider_type == "llmsim":
                    found.append(Finding(name, "ok", "it is simulated: it needs no key"))
                    continue
                try:
                    said = await client.check_provider(provider.id)
                except PerdureError as error:
                    found.append(Finding(name, "skip", f"not checked: {error.message}"))
                    continue
                if said.key_status == "valid":
                    found.append(Finding(name, "ok", "its vendor accepts the key"))
                elif said.key_status == "refused":
                    why = said.error.message if said.error else "its vendor refuses the key"
                    found.append(
                        Finding(
                            name, "fail", why, f"Set another key: `perdure providers update {provider.name}`."
                        )
                    )
                else:
                    why = said.error.message if said.error else "its vendor says nothing of the key"
                    found.append(Finding(name, "warn", why))
    except PerdureError as error:
        found.append(Finding("providers", "skip", error.message, "Give a --token of an administrator."))
    return found
