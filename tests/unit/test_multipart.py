"""Forms are read chunk by chunk, however they are cut, and within limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api.kernel import body_stream
from perdure.api.kernel.body_stream import BodyStream
from perdure.api.kernel.decoding import ClientLeft
from perdure.api.kernel.intake import Intake
from perdure.api.kernel.multipart import Multipart, MultipartLimits, boundary_of
from perdure.domain.errors import InvalidInput, PerdureError, TooLarge, Unavailable, UnsupportedMedia
from perdure.domain.ids import OrgId

FORM = b"multipart/form-data; boundary=xx"


def stream(*chunks: bytes, kind: bytes = FORM, limit: int = 10_000_000, ends: bool = True) -> BodyStream:
    """A body in chunks; without `ends`, the client leaves after the last one."""
    left = list(chunks)

    async def receive() -> Any:
        if not left:
            return {"type": "http.disconnect"}
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left) or not ends}

    return BodyStream({b"content-type": kind, b"transfer-encoding": b"chunked"}, receive, None, limit)


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def part(content: bytes, name: str = "file", more: str = "") -> bytes:
    return f'--xx\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


async def read(body: BodyStream, limits: MultipartLimits | None = None) -> list[tuple[str, bytes]]:
    return [(each.name, await each.read(1_000_000)) async for each in Multipart(body, limits)]


@given(
    contents=st.lists(
        st.binary(max_size=60) | st.sampled_from([b"\r\n--x", b"\r\n--", b"--xx", b"\r\n--xy\r\n"])
    ),
    size=st.integers(1, 80),
)
async def test_parts_are_read_unchanged_however_the_body_is_cut(contents: list[bytes], size: int) -> None:
    contents = [each for each in contents if b"\r\n--xx" not in b"\r\n" + each][:16]
    body = b"".join(map(part, contents)) + b"--xx--\r\n"
    assert await read(stream(*cut(body, size))) == [("file", each) for each in contents]


async def test_a_part_has_its_name_file_name_and_type() -> None:
    head = b'--xx\r\ncontent-disposition: form-data; filename="a \\"b\\" \xc3\xa9.png"; name=photo'
    head += b"\r\nContent-Type: Image/PNG; q=1\r\n\r\n"
    async for each in Multipart(stream(head + b"123\r\n--xx--")):
        assert (each.name, each.filename, each.content_type) == ("photo", 'a "b" é.png', "image/png")


async def test_what_is_not_read_of_a_part_is_skipped() -> None:
    body = part(b"1" * 1000, "one") + part(b"2", "two") + b"--xx--"
    form = Multipart(stream(*cut(body, 50)))
    names = []
    async for each in form:
        names.append(each.name)
        if each.name == "one":
            async for _ in each:
                break
    assert names == ["one", "two"]


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"--xy\r\n",
        b"--xx\r\n\r\n\r\nx\r\n--xx--",
        b"--xx\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--xx--",
        b"--xx\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xx--",
        b"--xxyContent-Disposition: form-data; name=a\r\n\r\nx\r\n--xx--",
        part(b"never ended"),
        part(b"x") + b"--xx--" + b"y" * 10_000,
        b'--xx\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--xx--',
        b"--xx\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: x\r\n\r\nx\r\n--xx--",
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
async def test_what_is_no_form_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        await read(stream(*cut(body, size)))
    assert caught.value.code == "invalid_multipart"


async def test_the_type_needs_a_boundary_and_parts_have_no_encoding() -> None:
    for kind in (b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 71):
        with pytest.raises(InvalidInput):
            boundary_of(kind)
    for kind in (b"", b"text/plain", b"multipart/mixed; boundary=xx"):
        with pytest.raises(UnsupportedMedia):
            boundary_of(kind)
    assert boundary_of(b'Multipart/Form-Data; charset=x; Boundary="a b"') == b"a b"
    encoded = part(b"x").replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + b"--xx--"
    with pytest.raises(UnsupportedMedia):
        await read(stream(encoded))


async def test_parts_headers_and_fields_have_limits() -> None:
    many = part(b"") * 3 + b"--xx--"
    wide = part(b"", more="; x=" + "y" * 9_000) + b"--xx--"
    for body, limits in ((many, MultipartLimits(parts=2)), (wide, None)):
        with pytest.raises(TooLarge):
            await read(stream(*cut(body, 100)), limits)
    with pytest.raises(TooLarge):
        [await each.read(9) async for each in Multipart(stream(part(b"0123456789") + b"--xx--"))]


async def test_a_stream_ends_with_its_limit_its_client_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge):
        await read(stream(*cut(part(b"1" * 100), 10), limit=90))
    with pytest.raises(ClientLeft):
        await read(stream(part(b"1" * 100), ends=False))

    async def silent() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(body_stream, "BODY_TIMEOUT", 0.01)
    with pytest.raises(InvalidInput) as caught:
        await anext(aiter(BodyStream({}, silent, None, 100)))
    assert caught.value.code == "body_timeout"


async def test_streams_that_arrive_at_once_have_a_limit() -> None:
    intake = Intake(most=5_000_000, each=5_000_000)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x", "more_body": True}

    def opened() -> BodyStream:
        return BodyStream({}, receive, intake.open(OrgId("org_1")), 100_000_000)

    first = opened()
    assert await anext(aiter(first)) == b"x"
    with pytest.raises(Unavailable):
        await anext(aiter(opened()))
    first.close()
    assert await anext(aiter(opened())) == b"x"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({b"content-length": b"101"}, TooLarge),
        ({b"content-length": b"x"}, InvalidInput),
        ({b"content-encoding": b"gzip"}, UnsupportedMedia),
    ],
)
def test_headers_are_checked_before_anything_is_read(
    headers: dict[bytes, bytes], error: type[PerdureError]
) -> None:
    async def receive() -> Any:
        raise AssertionError

    with pytest.raises(error):
        BodyStream(headers, receive, None, 100)
