"""A scripted model server: OpenAI Chat Completions, streamed, on one loopback port.

The script is in the newest message that contains one, so that it passes through any server unchanged:

    bench(tools=5 tokens=500 every=10 first=200)

    tools    rounds of one tool call each before the answer (0)
    tokens   pieces of the answer's text (1); the last one is END.
    every    milliseconds before each piece (0)
    first    milliseconds before the first byte of the answer (0)

The server does not parse JSON: it searches for the script and counts the roles behind it. A call with a long
history therefore costs hardly more than a short one, and a measure shows the cost of the Perdure server.

`GET /stats` returns the number of calls, the maximum of concurrent calls, and the size and time of the last
call.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from typing import Any

import msgspec
from msgspec import Struct

TOOL = "get_current_time"
"""The tool that it calls; the benchmarks' agent has it."""

_SCRIPT = re.compile(rb"bench\(([^)]*)\)")
_RESULT = re.compile(rb'"role"\s*:\s*"tool"')
_ROLE = re.compile(rb'"role"\s*:')
_CHUNK = (
    '{"id":"chat-1","object":"chat.completion.chunk","created":1,"model":"bench",'
    '"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
)
_USAGE = (
    '{"id":"chat-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[],'
    '"usage":{"prompt_tokens":100,"completion_tokens":%d,"total_tokens":%d,'
    '"prompt_tokens_details":{"cached_tokens":60}}}'
)


class Script(Struct, frozen=True):
    """A call's script; the module docstring describes the fields."""

    tools: int = 0
    tokens: int = 1
    every: float = 0.0
    first: float = 0.0

    def __str__(self) -> str:
        return f"bench(tools={self.tools} tokens={self.tokens} every={self.every:g} first={self.first:g})"


class Stats(Struct, omit_defaults=True):
    """Statistics since the start.

    Attributes:
        calls: the number of calls.
        open: the number of calls that are being answered.
        most_open: the maximum of `open`.
        messages: the number of messages in the last call.
        size: the size of the last call in bytes.
        received: when the last call arrived, by `time.perf_counter`, which all processes of a machine share.
        began: when the first piece of the last call's answer was sent, by the same clock.
        last: the body of the last call.
    """

    calls: int = 0
    open: int = 0
    most_open: int = 0
    messages: int = 0
    size: int = 0
    received: float = 0.0
    began: float = 0.0
    last: bytes = b""


def script_of(body: bytes) -> tuple[Script, int]:
    """Return the newest script in a request, and the number of tool results after it."""
    at = body.rfind(b"bench(")
    match = _SCRIPT.match(body, at) if at >= 0 else None
    if match is None:
        return Script(), 0
    fields = dict(pair.split("=", 1) for pair in match[1].decode().split())
    return msgspec.convert(fields, Script, strict=False), len(_RESULT.findall(body, match.end()))


def _event(text: str) -> bytes:
    payload = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def _delta(delta: str, finish: str = "null") -> bytes:
    return _event(_CHUNK % (delta, finish))


class _Call:
    """An answer in progress. A delayed piece waits in a timer, not in a task."""

    def __init__(self, client: _ClientConnection, script: Script, rounds: int, number: int) -> None:
        self._client = client
        self._script = script
        self._rounds = rounds
        self._number = number
        self._sent = 0
        self._loop = asyncio.get_running_loop()
        self._began = 0.0
        self.over = False
        self._timer = self._loop.call_later(script.first / 1000, self._begin) if script.first else None
        if self._timer is None:
            self._begin()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._client.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        if self._rounds < self._script.tools:
            function = f'{{"name":"{TOOL}","arguments":"{{}}"}}'
            call = f'{{"index":0,"id":"call_{self._number}","type":"function","function":{function}}}'
            self._client.write(_delta(f'{{"role":"assistant","tool_calls":[{call}]}}'))
            self._finish("tool_calls")
            return
        self._began = self._loop.time()
        if self._script.every:
            self._next()
            return
        while self._sent < self._script.tokens:
            self._piece()
        self._finish("stop")

    def _next(self) -> None:
        due = self._began + (self._sent + 1) * self._script.every / 1000
        self._timer = self._loop.call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._piece()
        if self._sent < self._script.tokens:
            self._next()
        else:
            self._finish("stop")

    def _piece(self) -> None:
        self._sent += 1
        if self._sent == 1:
            self._client.began()
        text = "END." if self._sent == self._script.tokens else f"word{self._sent} "
        role = '"role":"assistant",' if self._sent == 1 else ""
        self._client.write(_delta(f'{{{role}"content":"{text}"}}'))

    def _finish(self, reason: str) -> None:
        tokens = self._script.tokens
        self._client.write(
            _delta("{}", f'"{reason}"')
            + _event(_USAGE % (tokens, 100 + tokens))
            + _event("[DONE]")
            + b"0\r\n\r\n"
        )
        self.over = True
        self._client.done()


class _ClientConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._buffer = bytearray()
        self._call: _Call | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self._call is not None:
            self._call.stop()
            self.done()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def began(self) -> None:
        self._stats.began = time.perf_counter()

    def done(self) -> None:
        self._call = None
        self._stats.open -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end])
        at = head.lower().find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + size:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        del self._buffer[: end + 4 + size]
        if head.startswith(b"POST "):
            self._answer(body)
        else:
            self._tell()

    def _answer(self, body: bytes) -> None:
        stats = self._stats
        stats.received = time.perf_counter()
        stats.calls += 1
        stats.open += 1
        stats.most_open = max(stats.most_open, stats.open)
        stats.last = body
        script, rounds = script_of(body)
        call = _Call(self, script, rounds, stats.calls)
        self._call = None if call.over else call

    def _tell(self) -> None:
        stats = self._stats
        stats.messages, stats.size = len(_ROLE.findall(stats.last)), len(stats.last)
        body = msgspec.json.encode(msgspec.structs.replace(stats, last=b""))
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def main(port: int) -> None:
    """Serve until killed; print `listening on http://...` once ready."""
    stats = Stats()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _ClientConnection(stats), "127.0.0.1", port, backlog=4096)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser(description="A scripted model server.")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(main(parser.parse_args().port))
