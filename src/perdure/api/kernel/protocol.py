"""HTTP/1.1 below the routes: uvicorn's protocol, with what it leaves open."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from perdure.api.kernel.http import problem_reply
from perdure.api.kernel.problems import problem_of
from perdure.api.kernel.sse import EXTENSION
from perdure.domain.errors import HeadersTooLarge, InvalidInput, PerdureError

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers that may come in without their end, give or take one read of the
socket."""


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Heads are bounded, what is not HTTP gets an error in our shape, and a route can give up a connection whose
    client reads nothing: closing it would wait for the client.
    """

    _head = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse(HeadersTooLarge(f"the request's line and headers may hold {MAX_HEAD} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._in_head = 0, True
        self.scope["extensions"] = {EXTENSION: {"abort": self.transport.abort}}

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Called for what cannot be read as a request."""
        self._refuse(InvalidInput("this is not a valid HTTP/1.1 request", code="invalid_http"))

    def _refuse(self, error: PerdureError) -> None:
        reply = problem_reply(problem_of(error, ""))
        head = [STATUS_LINE[reply.status], b"content-type: ", reply.content_type, b"\r\n"]
        head += [b"content-length: ", str(len(reply.body)).encode(), b"\r\nconnection: close\r\n\r\n"]
        self.transport.write(b"".join([*head, reply.body]))
        self.transport.close()
