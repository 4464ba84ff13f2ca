"""What the MCP endpoint answers to a request."""

from __future__ import annotations

import asyncio

from perdure.api.kernel.asgi import Headers
from perdure.api.kernel.call import Call, Reply, Stream
from perdure.doors.mcp.methods import Methods, error_bytes, result_bytes
from perdure.doors.mcp.progress import Progress
from perdure.doors.mcp.requests import INVALID_REQUEST, Refusal, Request, read_request
from perdure.doors.mcp.tool import Visit
from perdure.doors.mcp.waiting import Waiting

_JSON, _EVENTS = b"application/json", b"text/event-stream"


class Endpoint:
    """Answers requests. Create one per process.

    Args:
        closing: set when the server shuts down, so that nobody waits any longer.
    """

    def __init__(self, closing: asyncio.Event) -> None:
        self._closing = closing
        self._methods = Methods()

    async def answer(self, call: Call, body: bytes) -> Reply | Stream:
        """Answer one message."""
        try:
            _check_media(call.headers)
            request = read_request(call.headers, body)
        except Refusal as refusal:
            return _refused(refusal)
        if request is None:
            return Reply(status=202)
        stop = asyncio.Event()
        progress = None if request.progress_token is None else Progress(request.progress_token)
        visit = Visit(call.app, call.caller, stop, None if progress is None else progress.see)
        if request.method != "tools/call":
            return await _reply_to(self._methods, request, visit)
        streams = _accepts(call.headers, _EVENTS)
        reply = lambda: _reply_to(self._methods, request, visit)  # noqa: E731
        return Stream(Waiting(reply, stop, progress, self._closing, streams=streams))


async def _reply_to(methods: Methods, request: Request, visit: Visit) -> Reply:
    """Answer a request. Never raises."""
    try:
        return Reply(result_bytes(request, await methods.answer(request, visit)))
    except Refusal as refusal:
        return _refused(refusal)


def _refused(refusal: Refusal) -> Reply:
    return Reply(error_bytes(refusal), refusal.status)


def _check_media(headers: Headers) -> None:
    """Check the types of content that a request has and accepts. Raises Refusal."""
    if not _accepts(headers, _JSON):
        raise Refusal(
            INVALID_REQUEST,
            "send the header Accept: application/json, text/event-stream; an answer may be either",
            status=406,
        )
    media = headers.get(b"content-type", b"").lower().partition(b";")[0].strip()
    if media != _JSON:
        raise Refusal(INVALID_REQUEST, "send JSON with the header Content-Type: application/json", status=415)


def _accepts(headers: Headers, media: bytes) -> bool:
    """Whether a request accepts answers of this type."""
    accepted = headers.get(b"accept", b"*/*").lower().split(b",")
    kinds = {each.partition(b";")[0].strip() for each in accepted}
    return bool(kinds & {media, media.partition(b"/")[0] + b"/*", b"*/*"})
