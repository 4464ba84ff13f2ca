"""Amazon Bedrock: files of messages, in the forms and with the names that it takes."""

from __future__ import annotations

import re

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import FilePart
from tests.conformance.drivers.test_bedrock import body_of
from tests.unit.llm.talk import agent, user


def pdf(name: str | None) -> FilePart:
    return FilePart(base64="JVBERi0=", filename=name, media_type="application/pdf")


async def test_documents_have_names_of_their_own_and_a_text_beside_them() -> None:
    names = ["../année_2026 (final).pdf", "a.pdf", "a.pdf", "\u202e\n", None, "x" * 300]
    body = body_of(*(user(pdf(name)) for name in names), agent("Read."), user("So?", pdf("a.pdf")))
    blocks = [block for each in body["messages"] for block in each["content"]]
    found = [block["document"]["name"] for block in blocks if "document" in block]
    assert [name[:-11] for name in found] == [
        "ann e 2026 (final) pdf", "a pdf", "a pdf", "document", "file", "x" * 50, "a pdf",
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert all(
        re.fullmatch(r"[A-Za-z0-9()\[\]-]+( [A-Za-z0-9()\[\]-]+)* \([0-9a-f]{8}\)", name) for name in found
    )
    assert blocks[0] == {"text": "(no content)"}
    assert [next(iter(block)) for block in body["messages"][-1]["content"]] == ["text", "document"]


async def test_sound_is_sent_in_the_formats_that_bedrock_takes() -> None:
    sound = FilePart(base64="AAAA", filename="a.m4a", media_type="audio/mp4")
    (message,) = body_of(user("Hear", sound))["messages"]
    assert message["content"][1] == {"audio": {"format": "m4a", "source": {"bytes": "AAAA"}}}
    with pytest.raises(ModelError, match="takes no files of the type 'video/mp4'"):
        body_of(user(FilePart(base64="AAAA", media_type="video/mp4")))
