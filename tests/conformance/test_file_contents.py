"""What a model gets of the files of messages, read from each of the databases."""

from __future__ import annotations

import base64
from collections.abc import Collection

import pytest
from msgspec.structs import replace

from perdure.domain.files import content_of
from perdure.domain.ids import new_id
from perdure.domain.messages import (
    AttachedPart,
    ContentPart,
    FilePart,
    ImageFilePart,
    ImagePart,
    Message,
    TextPart,
)
from perdure.domain.redaction import Redactor
from perdure.domain.stored_files import MAX_PAGES, PDF, StoredFile
from perdure.engine.file_contents import LONG, MAX_SENT, Contents, FileCache, Reader
from perdure.llm.adaptations import IMAGE_LEFT_OUT
from perdure.store.blobs import purge_blobs
from tests.conformance.desk import HOUR, NOW, Desk

NOBODY = Redactor({})
SECRET = "s3cret-of-the-vault"
GONE = StoredFile("0" * 64, 5, "image/png")


async def stored(desk: Desk, data: bytes, media_type: str, text: str | None = None) -> StoredFile:
    """Store a file, and its text if it has one."""
    await desk.write(f"/{new_id('file')}", data)
    found = StoredFile(content_of(data).hash, len(data), media_type)
    if text is None:
        return found
    words = text.encode()
    await desk.write(f"/{new_id('file')}", words)
    return replace(found, text=content_of(words).hash, text_bytes=len(words))


def message(*parts: ContentPart) -> Message:
    return Message(new_id("message"), "user", parts, created_at="2026-01-01T00:00:00Z")


async def read(
    desk: Desk,
    part: AttachedPart,
    *media: str,
    refused: Collection[str] | None = (),
    has_tools: bool = False,
    redactor: Redactor = NOBODY,
) -> tuple[ContentPart, ...]:
    """The part as a model gets it that takes these kinds of files."""
    contents = Contents(FileCache(), desk.database, desk.org_id, redactor)
    reader = Reader(media, refused, has_tools=has_tools)
    (found,) = await contents.read_by(reader, [message(part)])
    return found.content


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_a_model_that_sees_gets_the_image_and_a_blind_one_a_note(desk: Desk) -> None:
    image = await stored(desk, b"pixels", "image/png")
    part = ImageFilePart("image_1", filename="photo.png", stored=image)
    assert await read(desk, part, "image") == (ImagePart(base64=b64(b"pixels"), media_type="image/png"),)
    note = "[file photo.png: image/png, 6 bytes: left out, because this model cannot read images]"
    assert await read(desk, part, "pdf") == (TextPart(note),)


async def test_a_model_with_tools_is_told_the_path_of_what_it_sees(desk: Desk) -> None:
    image = replace(await stored(desk, b"pixels", "image/png"), path="/attachments/photo.png")
    label, picture = await read(desk, ImagePart(stored=image), "image", has_tools=True)
    assert label == TextPart("[file photo.png: image/png, 6 bytes, at /workspace/attachments/photo.png]")
    assert isinstance(picture, ImagePart)
    assert await read(desk, ImagePart(stored=image), "image") == (picture,)


async def test_a_document_is_sent_as_it_is_or_as_its_text(desk: Desk) -> None:
    book = replace(await stored(desk, b"%PDF-", PDF, "Twelve pears"), pages=3)
    part = FilePart(filename="book.pdf", media_type=PDF, stored=book)
    (sent,) = await read(desk, part, "pdf")
    assert sent == FilePart(base64=b64(b"%PDF-"), filename="book.pdf", media_type=PDF, stored=book)
    (text,) = await read(desk, part)
    start = "[file book.pdf: application/pdf, 5 bytes, 3 pages; its text follows]\n"
    assert text == TextPart(f"{start}Twelve pears\n[end of the file]")
    (cut,) = await read(desk, replace(part, stored=replace(book, text_cut=True)))
    assert cut == TextPart(
        f"{start}Twelve pears\n[The rest is left out, because it is long.]\n[end of the file]"
    )


async def test_a_file_without_text_is_left_out_with_the_reason(desk: Desk) -> None:
    scan = replace(await stored(desk, b"%PDF-", PDF), note="it has no text")
    (note,) = await read(desk, FilePart(filename="scan.pdf", stored=scan))
    assert note == TextPart("[file scan.pdf: application/pdf, 5 bytes: left out, because it has no text]")
    sound = await stored(desk, b"s" * 20_000, "audio/ogg")
    (note,) = await read(desk, FilePart(stored=sound), "audio")
    assert note == TextPart(
        "[file without a name: audio/ogg, 20 kB: left out, because this model cannot read sound]"
    )


@pytest.mark.parametrize("has_tools", [False, True])
async def test_what_is_not_stored_any_more_is_left_out(desk: Desk, has_tools: bool) -> None:
    why = "left out, because it is not stored any more]"
    (note,) = await read(desk, ImagePart(stored=GONE), "image", has_tools=has_tools)
    assert note == TextPart(f"[file without a name: image/png, 5 bytes: {why}")
    lost = StoredFile("1" * 64, 5, PDF, text="2" * 64, text_bytes=7)
    (note,) = await read(desk, FilePart(filename="a.pdf", stored=lost), has_tools=has_tools)
    assert note == TextPart(f"[file a.pdf: application/pdf, 5 bytes: {why}")


async def test_images_that_the_server_of_the_model_refused_are_not_sent_again(desk: Desk) -> None:
    image = await stored(desk, b"pixels", "image/png")
    first, second = message(ImagePart(stored=image)), message(ImagePart(stored=image), TextPart("look"))
    contents = Contents(FileCache(), desk.database, desk.org_id, NOBODY)
    one, two = await contents.read_by(Reader(["image"], {first.id}, has_tools=False), [first, second])
    assert one == replace(first, content=(TextPart(IMAGE_LEFT_OUT),))
    assert two.content == (ImagePart(base64=b64(b"pixels"), media_type="image/png"), TextPart("look"))
    assert await read(desk, ImagePart(stored=image), "image", refused=None) == (TextPart(IMAGE_LEFT_OUT),)


async def test_a_message_without_files_is_the_same_message(desk: Desk) -> None:
    plain = message(TextPart("hello"), ImagePart(url="https://example.com/a.png"))
    contents = Contents(FileCache(), desk.database, desk.org_id, NOBODY)
    (same,) = await contents.read_by(Reader(["image"], (), has_tools=False), [plain])
    assert same is plain


async def test_secrets_are_marked_in_the_text_of_files_and_not_in_their_bytes(desk: Desk) -> None:
    notes = await stored(desk, b"n", "text/plain", f"the key is {SECRET}")
    redactor = Redactor({"TOKEN": SECRET})
    (text,) = await read(desk, FilePart(filename="n.txt", stored=notes), redactor=redactor)
    assert isinstance(text, TextPart)
    assert SECRET not in text.text
    assert "TOKEN" in text.text
    image = await stored(desk, SECRET.encode(), "image/png")
    assert await read(desk, ImagePart(stored=image), "image", redactor=redactor) == (
        ImagePart(base64=b64(SECRET.encode()), media_type="image/png"),
    )


async def test_a_long_file_is_sent_whole(desk: Desk) -> None:
    data = bytes(range(256)) * (LONG // 256 + 1)
    (sent,) = await read(desk, ImagePart(stored=await stored(desk, data, "image/png")), "image")
    assert sent == ImagePart(base64=b64(data), media_type="image/png")


async def purge(desk: Desk, file: StoredFile) -> None:
    """Delete the file, so that only a cache still has it."""
    for path in await desk.tree():
        await desk.delete(path)
    await desk.database.write(lambda tx: purge_blobs(tx, NOW + 48 * HOUR))
    assert await FileCache().get(desk.database, desk.org_id, file.digest, 1, "text", NOBODY) is None


async def test_a_cache_keeps_the_contents_of_the_latest_calls_up_to_its_size(desk: Desk) -> None:
    files = [await stored(desk, letter * 40, "text/plain") for letter in (b"a", b"b", b"c")]
    cache = FileCache(most=100)

    async def get(file: StoredFile) -> str | None:
        return await cache.get(desk.database, desk.org_id, file.digest, file.size_bytes, "text", NOBODY)

    first, second, third = files
    assert await get(first) == "a" * 40
    assert await get(second) == "b" * 40
    assert await get(first) == "a" * 40
    assert await get(third) == "c" * 40  # drops the second, which was asked for least recently
    await purge(desk, second)
    assert [await get(first), await get(second), await get(third)] == ["a" * 40, None, "c" * 40]


async def test_a_content_that_is_larger_than_the_cache_is_kept_until_the_next(desk: Desk) -> None:
    file, small = await stored(desk, b"x" * 500, "text/plain"), await stored(desk, b"y", "text/plain")
    cache = FileCache(most=100)

    async def get(each: StoredFile) -> str | None:
        return await cache.get(desk.database, desk.org_id, each.digest, each.size_bytes, "text", NOBODY)

    assert await get(file) == "x" * 500
    assert await get(small) == "y"
    await purge(desk, file)
    assert [await get(file), await get(small)] == [None, "y"]


async def test_other_organizations_do_not_get_what_the_cache_has(desk: Desk) -> None:
    file, cache = await stored(desk, b"ours", "text/plain"), FileCache()
    assert await cache.get(desk.database, desk.org_id, file.digest, 4, "text", NOBODY) == "ours"
    assert await cache.get(desk.database, new_id("org"), file.digest, 4, "text", NOBODY) is None


@pytest.mark.parametrize(
    ("file", "taken"),
    [
        (StoredFile("a", 5_000_000, "image/png"), True),
        (StoredFile("a", 60_000_000, "image/png"), False),
        (StoredFile("a", MAX_SENT, "audio/wav"), True),
        (StoredFile("a", MAX_SENT + 1, "audio/mpeg"), False),
        (StoredFile("a", 5, "audio/flac"), False),
        (StoredFile("a", 5, PDF), True),
        (StoredFile("a", 5, PDF, pages=MAX_PAGES), True),
        (StoredFile("a", 5, PDF, pages=MAX_PAGES + 1), False),
        (StoredFile("a", MAX_SENT + 1, PDF), False),
        (StoredFile("a", 5, "text/plain", text="b"), False),
    ],
)
def test_a_model_gets_files_as_they_are_up_to_the_limits_of_vendors(file: StoredFile, taken: bool) -> None:
    reader = Reader(["image", "pdf", "audio"], (), has_tools=False)
    assert reader.takes(message(FilePart(stored=file)), file) is taken
