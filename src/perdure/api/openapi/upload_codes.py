"""The error codes of bodies and of bytes, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_FORMS = (
    (
        "invalid_multipart",
        "The body is not a valid `multipart/form-data`, or has no file or several.",
        "Correct what the message names. Send one part with a file name, or the file itself as the body.",
    ),
    (
        "invalid_form",
        "A body of the type multipart/form-data cannot be read, or has no file.",
        "Send the file in the field `file`, or, for a skill, alone as `application/zip`.",
    ),
)

LARGE_FORMS = (
    (
        "part_headers_too_large",
        "The headers of one part of a form are larger than 8 KB.",
        "Shorten its names.",
    ),
    ("too_many_parts", "The form has more parts than the operation takes.", "Send fewer parts."),
)

UPLOAD_EXPIRED = (
    "upload_expired",
    "The file took so long to arrive that what was stored of it has been removed.",
    "Send it again.",
)

UNREADABLE = (
    ("no_preview", "Only text files have a preview.", "Download the file."),
    (
        "unsupported_media_type",
        "The body is compressed, or its `Content-Type` is not one that the operation accepts.",
        "Send JSON in UTF-8 with `Content-Type: application/json`, or text where text is expected.",
    ),
)

RANGES = (
    (
        "unsatisfiable_range",
        "The file has none of the bytes that `Range` asks for.",
        "`Content-Range` has the file's size. Ask for bytes below it.",
    ),
)
