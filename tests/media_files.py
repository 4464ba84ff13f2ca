"""Small files of all kinds that messages may have, made by hand."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping

WORD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
REL = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
FONT = "/Resources << /Font << /F1 3 0 R >> >>"
DRAW = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'


def png(width: int = 3, height: int = 2, rows: bytes | None = None, depth: int = 8) -> bytes:
    """A grey image of `depth` bits; `rows` replaces its pixels, which may then be too few."""
    pixels = (b"\0" + b"\x80" * width) * height if rows is None else rows
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def pdf(*texts: str, tree: str | None = None) -> bytes:
    """A PDF with a page for each text. `tree` replaces the root of its pages."""
    count = len(texts)
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        tree or f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, text in enumerate(texts):
        drawing = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents {5 + 2 * at} 0 R {FONT} >>",
            f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
        ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + (
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    )


def archive(parts: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("[Content_Types].xml", "<Types/>")
        for name, content in parts.items():
            packed.writestr(name, content)
    return out.getvalue()


def docx(*paragraphs: str, head: str = "") -> bytes:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    return archive({"word/document.xml": f"{head}{WORD}{body}</w:body></w:document>"})


def xlsx(name: str = "Prices") -> bytes:
    rows = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="inlineStr"><is><t>cost</t></is></c></row>'
        '<row r="2"><c r="A2" t="s"><v>1</v></c><c r="C2"><v>1.25</v></c><c r="D2" t="b"><v>1</v></c></row>'
    )
    relation = '<Relationship Id="r7" Target="worksheets/first.xml"/>'
    return archive(
        {
            "xl/workbook.xml": f'<workbook {SHEET} {REL}><sheets><sheet name="{name}" r:id="r7"/></sheets>'
            "</workbook>",
            "xl/_rels/workbook.xml.rels": f"<Relationships>{relation}</Relationships>",
            "xl/sharedStrings.xml": f"<sst {SHEET}><si><t>item</t></si><si><t>pe</t><t>ar</t></si></sst>",
            "xl/worksheets/first.xml": f"<worksheet {SHEET}><sheetData>{rows}</sheetData></worksheet>",
        }
    )


def pptx(*texts: str) -> bytes:
    slides = {
        f"ppt/slides/slide{number}.xml": f"<p:sld xmlns:p='p' {DRAW}><a:p><a:r><a:t>{text}</a:t></a:r></a:p>"
        "</p:sld>"
        for number, text in enumerate(texts, 1)
    }
    return archive({"ppt/presentation.xml": "<p:presentation xmlns:p='p'/>", **slides})


def wav(seconds: float = 0.1) -> bytes:
    sound = b"\0\0" * int(8_000 * seconds)
    form = struct.pack("<HHIIHH", 1, 1, 8_000, 16_000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(sound)) + sound
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mp3() -> bytes:
    return b"ID3\x04\0\0\0\0\0\0" + b"\xff\xfb\x90\0" + bytes(600)


def ogg() -> bytes:
    return b"OggS\0\2" + bytes(22) + b"\x01\x1e\x01vorbis" + bytes(80)
