"""HTTP/1.1: uvicorn's protocol with a limit for headers, our error format, and a way to abort connections."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from perdure.api.kernel.http import problem_reply
from perdure.api.kernel.problems import problem_of
from perdure.api.kernel.sse import EXTENSION
from perdure.domain.errors import HeadersTooLarge, InvalidInput, PerdureError

MAX_HEAD = 64 * 1024
"""The maximum size of a request line with its headers, in bytes. It may be exceeded by one socket read."""


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    It limits the size of headers and answers malformed requests in our error format. A route can abort the
    connection of a client that does not read; a normal close would wait until the client has read everything.
    """

    _head = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse(
                HeadersTooLarge(f"the request line and headers may have at most {MAX_HEAD} bytes together")
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._in_head = 0, True
        self.scope["extensions"] = {EXTENSION: {"abort": self.transport.abort}}

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request. uvicorn calls this."""
        self._refuse(InvalidInput("this is not a valid HTTP/1.1 request", code="invalid_http"))

    def _refuse(self, error: PerdureError) -> None:
        reply = problem_reply(problem_of(error, ""))
        head = [STATUS_LINE[reply.status], b"content-type: ", reply.content_type, b"\r\n"]
        head += [b"content-length: ", str(len(reply.body)).encode(), b"\r\nconnection: close\r\n\r\n"]
        self.transport.write(b"".join([*head, reply.body]))
        self.transport.close()
