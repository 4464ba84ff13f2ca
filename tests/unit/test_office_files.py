"""The text of office files: what is read of each format, and which files are refused."""

from __future__ import annotations

import zlib

import pytest

from perdure.domain.errors import ToolError
from perdure.domain.file_types import DOCX, PPTX, XLSX
from perdure.sandbox import office
from perdure.sandbox.media import MAX_CHARACTERS, InspectJob, inspect
from perdure.sandbox.office import read_office
from tests.media_files import DRAW, REL, SHEET, WORD, archive, docx, pptx, xlsx


def document(body: str) -> str | None:
    """The text of a DOCX file with this body."""
    return read_office(archive({"word/document.xml": f"{WORD}{body}</w:body></w:document>"})).text


def workbook(*rows: str, shared: str = "", kept: bool = True) -> bytes:
    """A workbook of one sheet, named `s`; `kept`: whether it has the sheet's part."""
    parts = {
        "xl/workbook.xml": f'<workbook {SHEET} {REL}><sheets><sheet name="s" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships><Relationship Id="r1" Target="s.xml"/></Relationships>',
    }
    if kept:
        parts["xl/s.xml"] = f"<worksheet {SHEET}><sheetData>{''.join(rows)}</sheetData></worksheet>"
    if shared:
        parts["xl/sharedStrings.xml"] = f"<sst {SHEET}>{shared}</sst>"
    return archive(parts)


def refusal(data: bytes) -> str:
    with pytest.raises(ToolError) as refused:
        read_office(data)
    return refused.value.message


def test_the_paragraphs_of_a_document_are_lines() -> None:
    found = inspect(InspectJob("office", "application/zip", docx("One", "Two")))
    assert (found.media_type, found.text, found.pages, found.cut, found.note) == (
        DOCX, "One\nTwo", 0, False, None,
    )  # fmt: skip


def test_breaks_and_tabs_are_kept_and_what_is_not_text_is_left_out() -> None:
    assert document("<w:p><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:cr/><w:t>d</w:t></w:p>") == (
        "a\tb\nc\nd"
    )
    assert document("<w:p><w:instrText>PAGE</w:instrText>stray<w:t>shown</w:t></w:p>") == "shown"


def test_the_cells_of_a_table_are_separated_and_empty_paragraphs_make_one_blank_line() -> None:
    table = "<w:tbl><w:tr><w:tc><w:t>a</w:t></w:tc><w:tc><w:t>b</w:t></w:tc></w:tr></w:tbl>"
    assert document(table) == "a\tb"
    assert document("<w:p><w:t>a</w:t></w:p>" + "<w:p/>" * 5 + "<w:p><w:t>b</w:t></w:p>") == "a\n\nb"


def test_a_document_without_text_says_so() -> None:
    found = read_office(docx())
    assert (found.media_type, found.text, found.note) == (DOCX, None, "it has no text")


def test_the_text_of_a_long_document_is_cut_at_the_limit() -> None:
    found = read_office(docx(*["w" * 50_000] * 5))
    assert found.cut
    assert len(found.text or "") == MAX_CHARACTERS


def test_the_slides_of_a_presentation_come_in_the_order_of_their_numbers() -> None:
    found = read_office(pptx(*[f"text {number}" for number in range(1, 12)]))
    assert (found.media_type, found.pages) == (PPTX, 11)
    lines = (found.text or "").split("\n\n")
    assert lines[0] == "[slide 1]\ntext 1"
    assert [line.split("\n")[0] for line in lines] == [f"[slide {number}]" for number in range(1, 12)]


def test_only_slides_are_read_of_a_presentation_and_notes_and_masters_are_not() -> None:
    slide = f"<p:sld xmlns:p='p' {DRAW}><a:p><a:t>shown</a:t></a:p></p:sld>"
    other = slide.replace("shown", "hidden")
    found = read_office(
        archive(
            {
                "ppt/presentation.xml": "<p/>",
                "ppt/slides/slide7.xml": slide,
                "ppt/notesSlides/notesSlide1.xml": other,
                "ppt/slides/slide123456.xml": other,
                "ppt/slideMasters/slideMaster1.xml": other,
            }
        )
    )
    assert (found.pages, found.text) == (1, "[slide 7]\nshown")


def test_a_presentation_of_too_many_slides_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "MAX_SLIDES", 2)
    found = read_office(pptx("a", "b", "c"))
    assert (found.pages, found.text) == (2, "[slide 1]\na\n\n[slide 2]\nb")


def test_the_cells_of_a_sheet_stand_in_their_columns() -> None:
    found = read_office(xlsx())
    assert (found.media_type, found.pages) == (XLSX, 1)
    assert found.text == "[sheet Prices]\nitem\t\tcost\npear\t\t1.25\tTRUE"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (('<row><c t="b"><v>0</v></c><c t="b"><v>1</v></c><c t="b"><v>7</v></c></row>',), "FALSE\tTRUE\t7"),
        (("<row><c><v>1</v></c><c><v>2</v></c></row>", "<row><c><v>3</v></c></row>"), "1\t2\n3"),
        (('<row><c r="B1"><v>1</v></c><c><v>2</v></c></row>',), "\t1\t2"),
        (('<row><c r="A1"><f>1+1</f><v>2</v></c></row>',), "2"),
        (("<row/>", "<row><c/></row>", "<row><c><v>9</v></c></row>"), "9"),
        (('<row><c r="AA1"><v>x</v></c></row>',), "\t" * 26 + "x"),
        (('<row><c r="ZZZ1"><v>x</v></c></row>',), "\t" * 16_383 + "x"),
        (('<row><c r="C1"><v>a</v></c><c r="A1"><v>b</v></c></row>',), "\t\tab"),
    ],
)
def test_a_row_is_a_line_with_tabs_between_its_columns(rows: tuple[str, ...], text: str) -> None:
    assert read_office(workbook(*rows)).text == f"[sheet s]\n{text}"


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "pear"), ("1", "rich text"), ("2", ""), ("-1", "-1"), ("x", "x"), ("9999999999", "9999999999")],
)
def test_a_cell_has_the_shared_string_with_its_number(value: str, text: str) -> None:
    shared = "<si><t>pear</t></si><si><r><t>rich</t></r>not this<r><t> text</t></r></si>"
    data = workbook(f'<row><c t="s"><v>{value}</v></c><c r="C1"><v>end</v></c></row>', shared=shared)
    assert read_office(data).text == f"[sheet s]\n{text}\t\tend"


def test_a_sheet_whose_part_is_missing_is_left_out() -> None:
    found = read_office(workbook(kept=False))
    assert (found.text, found.note, found.pages) == (None, "it has no text", 1)


def test_a_sheet_can_be_named_from_the_root_of_the_archive_and_never_from_outside() -> None:
    row = "<row><c><v>7</v></c></row>"
    sheet = f"<worksheet {SHEET}><sheetData>{row}</sheetData></worksheet>"

    def read(target: str) -> str | None:
        relation = f'<Relationship Id="r1" Target="{target}"/><Relationship Id="r2"/>'
        parts = {
            "xl/workbook.xml": f'<w {REL}><sheet name="s" r:id="r1"/><sheet name="t" r:id="r9"/></w>',
            "xl/_rels/workbook.xml.rels": f"<a>{relation}</a>",
            "xl/s.xml": sheet,
        }
        return read_office(archive(parts)).text

    assert read("/xl/s.xml") == read("s.xml") == "[sheet s]\n7"
    assert read("../../etc/passwd") is None


def test_a_workbook_without_the_list_of_its_parts_is_broken() -> None:
    assert refusal(archive({"xl/workbook.xml": "<a/>"})) == "is a broken office file, or has a password"


def test_other_archives_are_no_office_files() -> None:
    assert "no DOCX, XLSX or PPTX" in refusal(archive({"readme.txt": "hello"}))
    no_types = archive({"word/document.xml": "<a/>"}).replace(b"[Content_Types].xml", b"[Content-Types].xml")
    assert "no DOCX, XLSX or PPTX" in refusal(no_types)


def test_an_archive_that_was_cut_off_is_refused() -> None:
    assert refusal(docx("hello")[:-30]) == "is not a complete ZIP archive"


def test_a_part_whose_bytes_were_changed_is_refused() -> None:
    data = bytearray(docx("hello " * 50))
    at = data.index(b"word/document.xml") + len("word/document.xml")
    data[at : at + 12] = b"\xff" * 12
    assert refusal(bytes(data)) == "is a broken office file, or has a password"


def test_an_encrypted_part_is_refused() -> None:
    data = docx("secret")
    at, central = data.index(b"PK\x03\x04", 4), data.rindex(b"PK\x01\x02")
    locked = bytearray(data)
    locked[at + 6] |= 1
    locked[central + 8] |= 1
    assert refusal(bytes(locked)) == "is a broken office file, or has a password"


def test_xml_that_declares_entities_or_does_not_end_is_refused() -> None:
    assert "declares entities" in refusal(docx("&a;", head='<!DOCTYPE x [<!ENTITY a "aaaa">]>'))
    assert "cannot be read" in refusal(archive({"word/document.xml": WORD}))


def test_an_archive_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "MAX_ENTRIES", 5)
    assert "more than 5 parts" in refusal(archive({f"{at}": b"" for at in range(5)}))


@pytest.mark.parametrize("limit", ["MAX_PART", "MAX_ALL"])
def test_what_decompresses_to_more_than_the_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(office, limit, 200_000)
    parts = {"word/document.xml": b"<a>" + b" " * 300_000}
    assert len(zlib.compress(parts["word/document.xml"])) < 1_000
    assert "it may be a bomb" in refusal(archive(parts))
