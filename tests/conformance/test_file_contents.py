"""What a model gets of the files of messages, read from each of the databases."""

from __future__ import annotations

import base64
import random
import resource
from collections.abc import AsyncIterator, Collection

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
from perdure.domain.model_profiles import Modality
from perdure.domain.redaction import Redactor
from perdure.domain.stored_files import MAX_PAGES, PDF, StoredFile
from perdure.engine.file_contents import LONG, NO_ROOM, Contents, FileCache, Reader, stored_of
from perdure.engine.scaled_images import ImageScaler
from perdure.llm import carried as vendors
from perdure.llm.adaptations import IMAGE_LEFT_OUT
from perdure.llm.carried import Carried
from perdure.sandbox.media import size_of
from perdure.sandbox.pool import Sandbox
from perdure.store.blobs import purge_blobs
from tests.conformance.desk import HOUR, NOW, Desk
from tests.media_files import png

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


def taking(*kinds: Modality) -> Carried:
    return Carried(kinds=frozenset(kinds))


def contents_of(desk: Desk, redactor: Redactor = NOBODY, sandbox: Sandbox | None = None) -> Contents:
    scaler = ImageScaler(sandbox or Sandbox())
    return Contents(FileCache(), desk.database, scaler, desk.org_id, redactor)


async def read(
    desk: Desk,
    part: AttachedPart,
    *media: Modality,
    refused: Collection[str] | None = (),
    has_tools: bool = False,
    redactor: Redactor = NOBODY,
) -> tuple[ContentPart, ...]:
    """The part as a model gets it that takes these kinds of files."""
    reader = Reader(taking(*media), refused, has_tools=has_tools)
    (found,) = await contents_of(desk, redactor).read_by(reader, [message(part)])
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
        "[file without a name: audio/ogg, 20 kB: left out, "
        "because this model cannot read sound of this type or size]"
    )


async def test_an_image_that_no_process_could_make_smaller_is_sent_with_the_next_call(desk: Desk) -> None:
    image = replace(await stored(desk, png(300, 100), "image/png"), width=300, height=100)
    sandbox = Sandbox()
    contents = contents_of(desk, sandbox=sandbox)
    reader = Reader(replace(taking("image"), side=100), (), has_tools=False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # no process can be started
        (found,) = await contents.read_by(reader, [message(ImagePart(stored=image))])
        why = "this model takes no image of its size or format, and it could not be made smaller"
        note = f"[file without a name: image/png, {image.size_bytes} bytes: left out, because {why}]"
        assert found.content == (TextPart(note),)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        (found,) = await contents.read_by(reader, [message(ImagePart(stored=image))])
        assert isinstance(found.content[0], ImagePart)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await sandbox.close()


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
    reader = Reader(taking("image"), {first.id}, has_tools=False)
    one, two = await contents_of(desk).read_by(reader, [first, second])
    assert one == replace(first, content=(TextPart(IMAGE_LEFT_OUT),))
    assert two.content == (ImagePart(base64=b64(b"pixels"), media_type="image/png"), TextPart("look"))
    assert await read(desk, ImagePart(stored=image), "image", refused=None) == (TextPart(IMAGE_LEFT_OUT),)


async def test_a_message_without_files_is_the_same_message(desk: Desk) -> None:
    plain = message(TextPart("hello"), ImagePart(url="https://example.com/a.png"))
    reader = Reader(taking("image"), (), has_tools=False)
    (same,) = await contents_of(desk).read_by(reader, [plain])
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


ALL = vendors.WITH_SOUND


@pytest.mark.parametrize(
    ("carried", "file", "taken"),
    [
        (ALL, StoredFile("a", 60_000_000, "image/png"), True),
        (ALL, StoredFile("a", ALL.total_bytes, "audio/wav"), True),
        (ALL, StoredFile("a", ALL.total_bytes + 1, "audio/mpeg"), False),
        (ALL, StoredFile("a", 5, "audio/flac"), False),
        (vendors.GEMINI, StoredFile("a", 5, "audio/flac"), True),
        (vendors.GEMINI, StoredFile("a", 5, "audio/mp4"), False),
        (vendors.BEDROCK, StoredFile("a", 5, "audio/mp4"), True),
        (vendors.ANTHROPIC, StoredFile("a", 5, "audio/wav"), False),
        (ALL, StoredFile("a", 5, PDF), True),
        (ALL, StoredFile("a", 5, PDF, pages=MAX_PAGES), True),
        (ALL, StoredFile("a", 5, PDF, pages=MAX_PAGES + 1), False),
        (ALL, StoredFile("a", ALL.document_bytes + 1, PDF), False),
        (vendors.BEDROCK, StoredFile("a", 4_500_001, PDF), False),
        (ALL, StoredFile("a", 5, "text/plain", text="b"), False),
    ],
)
def test_a_model_gets_files_as_they_are_up_to_the_limits_of_vendors(
    carried: Carried, file: StoredFile, taken: bool
) -> None:
    reader = Reader(carried, (), has_tools=False)
    assert reader.takes(message(FilePart(stored=file)), file) is taken


def taken_of(carried: Carried, *files: StoredFile) -> list[int]:
    """The numbers of the files that a call has room for, each in a message of its own."""
    messages = [message(FilePart(stored=each)) for each in files]
    return sorted(at for at, _ in Reader(carried, (), has_tools=False).plan(messages).taken)


def test_a_call_has_the_newest_files_up_to_what_its_vendor_takes() -> None:
    book, photo = StoredFile("a", 4_000_000, PDF), StoredFile("b", 1_000, "image/png")
    assert taken_of(vendors.BEDROCK, *[book] * 5) == [2, 3, 4]  # 14 MB in all
    assert taken_of(vendors.BEDROCK, *[replace(book, size_bytes=5)] * 7) == [2, 3, 4, 5, 6]
    assert taken_of(vendors.BEDROCK, *[photo] * 22) == list(range(2, 22))
    assert taken_of(vendors.GEMINI, *[photo] * 22) == list(range(22))
    huge = StoredFile("c", 10_000_000, "image/png")
    assert taken_of(vendors.ANTHROPIC, *[huge] * 9) == [4, 5, 6, 7, 8]  # as much as they have when scaled


async def test_a_file_for_which_a_call_has_no_room_is_its_text_or_a_note(desk: Desk) -> None:
    book = replace(await stored(desk, b"%PDF-", PDF, "Twelve pears"), pages=3)
    scan = replace(await stored(desk, b"%PDF-", PDF), pages=3)
    carried = replace(taking("pdf", "image"), documents=1, most_images=0)
    image = await stored(desk, b"pixels", "image/png")
    parts = (FilePart(stored=book), FilePart(stored=scan), ImagePart(stored=image), FilePart(stored=book))
    reader = Reader(carried, (), has_tools=False)
    (found,) = await contents_of(desk).read_by(reader, [message(*parts)])
    first, second, third, last = found.content
    words = [part.text for part in (first, second, third) if isinstance(part, TextPart)]
    assert "Twelve pears" in words[0]
    assert [text.endswith(f"left out, {NO_ROOM}]") for text in words[1:]] == [True, True]
    assert stored_of(last) == book


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    opened = Sandbox(1)
    yield opened
    await opened.close()


def pixels(data: bytes) -> tuple[str, int, int]:
    return ("jpeg" if data.startswith(b"\xff\xd8") else "png", *size_of(data))


async def test_an_image_over_the_limits_of_its_vendor_is_made_smaller(desk: Desk, sandbox: Sandbox) -> None:
    wide = replace(await stored(desk, png(8_001, 40), "image/png"), width=8_001, height=40)
    contents = contents_of(desk, sandbox=sandbox)

    async def sent(carried: Carried, *files: StoredFile) -> list[tuple[str, int, int]]:
        reader = Reader(carried, (), has_tools=False)
        parts = [ImagePart(stored=each) for each in files]
        (found,) = await contents.read_by(reader, [message(*parts)])
        images = [part for part in found.content if isinstance(part, ImagePart)]
        return [pixels(base64.b64decode(each.base64 or "")) for each in images]

    assert await sent(vendors.GEMINI, wide) == [("png", 8_001, 40)]
    assert await sent(vendors.ANTHROPIC, wide) == [("jpeg", 2_048, 10)]
    small = replace(await stored(desk, png(2_001, 5), "image/png"), width=2_001, height=5)
    assert await sent(vendors.ANTHROPIC, small) == [("png", 2_001, 5)]
    assert set(await sent(vendors.ANTHROPIC, *[small] * 21)) == {("jpeg", 2_000, 5)}
    noise = png(400, 400, b"".join(b"\0" + random.Random(row).randbytes(400) for row in range(400)))
    dense = replace(await stored(desk, noise, "image/png"), width=400, height=400)
    assert await sent(replace(vendors.GEMINI, image_bytes=9_000), dense) == [("jpeg", 100, 100)]
    assert await sent(replace(vendors.GEMINI, images=frozenset()), small) == [("jpeg", 2_001, 5)]


async def test_an_image_that_cannot_be_made_smaller_is_left_out_with_the_reason(
    desk: Desk, sandbox: Sandbox
) -> None:
    broken = replace(await stored(desk, png(9_000, 4, rows=b"few"), "image/png"), width=9_000, height=4)
    reader = Reader(vendors.ANTHROPIC, (), has_tools=False)
    contents = contents_of(desk, sandbox=sandbox)
    for _ in range(2):
        (found,) = await contents.read_by(reader, [message(ImagePart(stored=broken))])
        (note,) = found.content
        assert isinstance(note, TextPart)
        assert "left out, because this model takes no image of its size or format, and " in note.text
