"""The error codes of images and of messages' files, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_FILES = (
    (
        "invalid_file",
        "A file is broken, over a limit, of a type that is not read, or not what its media type says.",
        "The message says which. The guide `attachments` lists the types and limits.",
    ),
    (
        "file_not_fetched",
        "A file of a message cannot be fetched from its URL, or the session may not reach that host.",
        "Correct the URL or the `network_access` of the session, or send the file in `base64`.",
    ),
    (
        "missing_file",
        "The form of an upload has no file.",
        "Send the image in the field `file`.",
    ),
)

MISSING_IMAGES = (
    ("image_not_found", "There is no such image in this organization.", "`GET /v1/images` lists them."),
    (
        "thumbnail_not_found",
        "The image has no thumbnail: the server had no library to make one when it was uploaded.",
        "Install `perdure[documents]` on the server, and upload the image again.",
    ),
)

TOO_MANY_IMAGES = (
    "too_many_images",
    "The organization has as many images, or as many bytes of them, as it may have.",
    "Delete some with `DELETE /v1/images/{image_id}`.",
)

FILES_AT_ONCE = (
    "too_many_files_at_once",
    "Too many messages with files of the organization are arriving at once, or their turn did not come.",
    "Send the message again after `retry_after_seconds`.",
)
