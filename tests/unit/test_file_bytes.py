"""Downloads: whole, in part, or not at all; and uploads as the file of a form."""

from __future__ import annotations

import re
from typing import Any

import pytest

from perdure.api.kernel.call import Call, Reply, Stream
from perdure.api.kernel.multipart import Multipart
from perdure.api.kernel.ranges import MAX_RANGES, Span, spans_of
from perdure.api.routes.file_bytes import _file_in, disposition, download
from perdure.app.files import OpenFile
from perdure.domain.errors import InvalidInput, NotFound, PreconditionFailed, UnsatisfiableRange
from perdure.domain.ids import new_id
from perdure.store.blobs import PART
from perdure.store.files import FileRow
from tests.unit.test_multipart import part, stream

CONTENT = bytes(range(256)) * (PART // 128) + b"end"
"""Two whole parts, and three bytes."""
TAG = "abc"


def opened(missing: int | None = None) -> OpenFile:
    """The file of CONTENT; one of its parts may be missing."""
    row = FileRow(
        new_id("workspace"), "/notes/ä.bin", new_id("org"), "/notes", 0, 0, 0, len(CONTENT), TAG, 0, 0
    )

    async def read(number: int) -> bytes:
        if number == missing:
            raise NotFound("file")
        return CONTENT[number * PART : (number + 1) * PART]

    return OpenFile(row, read)


def request(**headers: str) -> Call:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    unused: Any = None
    return Call(unused, unused, named, unused, unused)


class Connection:
    """What a download sends."""

    def __init__(self, method: str = "GET") -> None:
        self.closed = False
        self.aborted = False
        self.scope: Any = {"method": method, "extensions": {"perdure": self}}
        self.messages: list[dict[str, Any]] = []

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def fetched(file: OpenFile, connection: Connection | None = None, **headers: str) -> Connection:
    connection = connection or Connection()
    answer = download(request(**headers), file)
    assert isinstance(answer, Stream)

    async def receive() -> Any:
        raise AssertionError("a download reads nothing from the client")

    await answer.run(connection.scope, receive, connection.send)
    return connection


async def test_a_whole_file_is_sent_part_by_part_under_its_name() -> None:
    got = await fetched(opened())
    assert (got.status, got.body == CONTENT) == (200, True)
    assert [len(each["body"]) for each in got.messages[1:]] == [PART, PART, 3, 0]
    assert got.headers[b"content-length"] == b"%d" % len(CONTENT)
    assert got.headers[b"etag"] == b'"abc"'
    assert got.headers[b"content-disposition"].endswith(b"filename*=UTF-8''%C3%A4.bin")
    assert b"sandbox" in got.headers[b"content-security-policy"]


async def test_one_range_is_sent_as_a_partial_answer_across_parts() -> None:
    got = await fetched(opened(), range=f"bytes={PART - 2}-{2 * PART}")
    assert (got.status, got.body == CONTENT[PART - 2 : 2 * PART + 1]) == (206, True)
    assert got.headers[b"content-range"] == b"bytes %d-%d/%d" % (PART - 2, 2 * PART, len(CONTENT))


async def test_several_ranges_are_sent_as_the_parts_of_one_answer() -> None:
    got = await fetched(opened(), range="bytes=0-1, -3")
    boundary = got.headers[b"content-type"].removeprefix(b"multipart/byteranges; boundary=")
    assert re.fullmatch(rb"[0-9a-f]{32}", boundary)
    first, second, end = got.body.split(b"\r\n--" + boundary)[1:]
    total, size = len(CONTENT), len(CONTENT) - 3
    assert first.endswith(b"Content-Range: bytes 0-1/%d\r\n\r\n\x00\x01" % total)
    assert second.endswith(b"Content-Range: bytes %d-%d/%d\r\n\r\nend" % (size, total - 1, total))
    assert end == b"--\r\n"
    assert got.headers[b"content-length"] == b"%d" % len(got.body)


async def test_head_has_the_headers_of_the_whole_and_no_body() -> None:
    got = await fetched(opened(), Connection("HEAD"), range="bytes=0-1")
    assert (got.status, got.body) == (200, b"")
    assert got.headers[b"content-length"] == b"%d" % len(CONTENT)


async def test_a_client_is_not_sent_a_file_that_it_knows_or_that_has_changed() -> None:
    known = download(request(if_none_match='"abc"'), opened())
    assert isinstance(known, Reply)
    assert (known.status, known.body, known.headers) == (304, b"", ((b"etag", b'"abc"'),))
    call = request()
    call.if_match = frozenset({"old"})
    with pytest.raises(PreconditionFailed, match="read it again"):
        download(call, opened())
    for tag in ("*", TAG):
        call.if_match = frozenset({tag})
        assert isinstance(download(call, opened()), Stream)


async def test_the_connection_is_aborted_when_bytes_are_missing_and_left_alone_when_the_client_left() -> None:
    broken = await fetched(opened(missing=1))
    assert [len(each["body"]) for each in broken.messages[1:]] == [PART]
    assert broken.aborted
    gone = Connection()
    gone.closed = True
    assert (await fetched(opened(), gone)).body == b""
    assert [gone.aborted, len(gone.messages)] == [False, 1]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("bytes=0-4", [Span(0, 4)]),
        ("Bytes = 0-4", []),
        ("bytes=95-", [Span(95, 99)]),
        ("bytes=-200", [Span(0, 99)]),
        ("bytes=90-1000", [Span(90, 99)]),
        ("bytes=5-6,0-1", [Span(5, 6), Span(0, 1)]),
        ("bytes=0-1,500-", [Span(0, 1)]),
        ("bytes=0-5,5-6", []),
        ("bytes=6-5", []),
        ("bytes=-", []),
        ("bytes=1-2,,", []),
        ("bytes=1", []),
        ("lines=1-2", []),
        ("bytes=" + ",".join(f"{at}-{at}" for at in range(0, 34, 2)), []),
    ],
)
def test_a_range_names_bytes_that_exist_or_the_whole_is_sent(text: str, spans: list[Span]) -> None:
    assert MAX_RANGES == 16
    assert spans_of({b"range": text.encode()}, 100, TAG) == spans
    assert spans_of({b"range": text.encode(), b"if-range": b'"abc"'}, 100, TAG) == spans
    assert spans_of({b"range": text.encode(), b"if-range": b'"old"'}, 100, TAG) == []


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=200-300, 400-", "bytes=-0"])
def test_ranges_behind_the_end_cannot_be_satisfied(text: str) -> None:
    with pytest.raises(UnsatisfiableRange):
        spans_of({b"range": text.encode()}, 100, TAG)


async def test_the_one_file_of_a_form_is_its_content() -> None:
    note, file = part(b"A note.", "note"), part(b"first", more='; filename="a"')
    chunks = [chunk async for chunk in _file_in(Multipart(stream(note + file + b"--xx--")))]
    assert b"".join(chunks) == b"first"
    for wrong, words in ((note, "no part with a file name"), (file + file, "several files")):
        with pytest.raises(InvalidInput, match=words) as caught:
            [chunk async for chunk in _file_in(Multipart(stream(wrong + b"--xx--")))]
        assert caught.value.code == "invalid_multipart"


def test_a_name_cannot_break_out_of_its_header() -> None:
    assert disposition('a"; x=\\%\r\nü.txt') == (
        b"attachment; filename=\"a__ x=_____.txt\"; filename*=UTF-8''a%22%3B%20x%3D%5C%25%0D%0A%C3%BC.txt"
    )
