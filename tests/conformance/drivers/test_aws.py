"""AWS: the framing of its event streams, and signatures of requests."""

from __future__ import annotations

import calendar
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from perdure.domain.errors import ModelError
from perdure.domain.sse import StreamTooLong
from perdure.llm.aws_events import AwsEventParser
from perdure.llm.aws_signing import AwsKey, Signer, aws_key
from tests.conformance.drivers.converse import event, message

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
ACCESS = f"AKIAIOSFODNN7EXAMPLE:{SECRET}"


# --- framing -------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 50))
def test_messages_are_found_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    stream = b"".join(message({":event-type": f"e{n}"}, data) for n, data in enumerate(payloads))
    parser = AwsEventParser(1_000, 10_000)
    frames = [frame for at in range(0, len(stream), size) for frame in parser.feed(stream[at : at + size])]
    assert [(frame.event, frame.data) for frame in frames] == [
        (f"e{n}", data) for n, data in enumerate(payloads)
    ]
    assert parser.flush() == []


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_damaged_byte_goes_unnoticed(place: int, change: int) -> None:
    whole = bytearray(event("contentBlockDelta", {"delta": {"text": "Hello"}}))
    whole[place % len(whole)] ^= change
    parser = AwsEventParser(1_000, 10_000)
    with pytest.raises((ModelError, StreamTooLong)):
        parser.feed(bytes(whole))


def test_headers_of_every_type_are_skipped_but_texts() -> None:
    values = [b"\x00", b"\x01", b"\x02x", b"\x03xx", b"\x04xxxx", b"\x05" + b"x" * 8, b"\x06\x00\x01x"]
    values += [b"\x08" + b"x" * 8, b"\x09" + b"x" * 16, b"\x07\x00\x02ok"]
    headers = b"".join(b"\x01" + bytes([65 + n]) + value for n, value in enumerate(values))
    whole = _raw(headers + b"\x0b:event-type\x07\x00\x04last", b"{}")
    (frame,) = AwsEventParser(1_000, 10_000).feed(whole)
    assert frame.event == "last"
    for wrong in (b"\x01A\x0a", b"\x01A"):
        with pytest.raises(ModelError, match="wrong header"):
            AwsEventParser(1_000, 10_000).feed(_raw(wrong, b""))


def _raw(headers: bytes, payload: bytes) -> bytes:
    head = (16 + len(headers) + len(payload)).to_bytes(4) + len(headers).to_bytes(4)
    whole = head + crc32(head).to_bytes(4) + headers + payload
    return whole + crc32(whole).to_bytes(4)


def test_lengths_are_bounded() -> None:
    with pytest.raises(ModelError, match="wrong length"):
        AwsEventParser(1_000_000, 1_000_000).feed(_raw(b"\x01A\x00" * 50_000, b"{}")[:12])
    with pytest.raises(StreamTooLong):
        AwsEventParser(100, 10_000).feed(message({}, b"x" * 100))
    with pytest.raises(StreamTooLong):
        AwsEventParser(100, 200).feed(message({}, b"x" * 50) * 4)


# --- signatures ----------------------------------------------------------------


def test_a_request_is_signed_as_in_the_vendors_test_suite() -> None:
    def moment() -> float:
        return calendar.timegm((2015, 8, 30, 12, 36, 0))

    key = AwsKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    signer = Signer(key, "us-east-1", "service", moment)
    for url, signature in (
        ("/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("/?Param2=value2&Param1=value1", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    ):
        headers = signer.headers("GET", URL(f"https://example.amazonaws.com{url}"), b"")
        assert headers["x-amz-date"] == "20150830T123600Z"
        assert headers["authorization"] == (
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
            f"SignedHeaders=host;x-amz-date, Signature={signature}"
        )


def test_an_access_key_is_told_from_an_api_key() -> None:
    assert aws_key(ACCESS) == AwsKey("AKIAIOSFODNN7EXAMPLE", SECRET)
    temporary = f"ASIAIOSFODNN7EXAMPLE:{SECRET}:IQoJb3JpZ2luX2VjEXAMPLE//token+=="
    assert aws_key(temporary) == AwsKey("ASIAIOSFODNN7EXAMPLE", SECRET, "IQoJb3JpZ2luX2VjEXAMPLE//token+==")
    for other in ("bedrock-api-key-abc", "ABSKQmVkcm9ja0FQSUtleS1leGFtcGxl", "AKIAIOSFODNN7EXAMPLE", ""):
        assert aws_key(other) is None
