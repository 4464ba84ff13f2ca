"""Bodies of the type multipart/form-data, of which one file is wanted."""

from __future__ import annotations

import re

from perdure.domain.errors import InvalidInput

MAX_PARTS = 20
MAX_HEAD = 8 * 1024
"""Bytes of a part's headers."""

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_FILE = re.compile(rb"^content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)


def file_of_form(content_type: str, body: bytes) -> bytes:
    """Return the content of the only file in a form.

    Args:
        content_type: the header, with its boundary.

    Raises:
        InvalidInput: the form cannot be read, or does not have one file.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise _refused("its Content-Type has no boundary")
    mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    parts = (b"\r\n" + body).split(mark, MAX_PARTS + 1)
    if len(parts) < 3 or parts[-1][:2] != b"--":
        raise _refused(f"it is not complete, or has more than {MAX_PARTS} parts")
    files = []
    for part in parts[1:-1]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator or len(head) > MAX_HEAD:
            raise _refused("a part has no headers, or too long ones")
        if _FILE.search(head):
            files.append(content)
    if len(files) != 1:
        raise _refused(f"it has {len(files)} files instead of one")
    return files[0]


def _refused(why: str) -> InvalidInput:
    return InvalidInput(f"the form cannot be read: {why}", code="invalid_form")
