"""The error codes of memories, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_MEMORIES = (
    ("memory_text_only", "A file of a memory would not be text in UTF-8.", "Store it in a workspace."),
    (
        "unsupported_memory_source",
        "The memory would be copied from GitHub or another repository, or has no source to synchronize.",
        "Leave `source` out, and write the files with the API or in sessions.",
    ),
)
FORBIDDEN_MEMORIES = (
    (
        "memory_withheld",
        "Not only its owner has written in the session, so it does not get the owner's own memories.",
        "Begin a new session. The routes of the memory work as before.",
    ),
    ("memory_no_readonly", "A single file of a memory would be read-only.", "Mount the memory read-only."),
    (
        "memory_read_only",
        "The session has the memory mounted read-only.",
        "Mount it with the mode `read_write`, or write with the routes of the memory.",
    ),
)
MISSING_MEMORIES = (
    ("memory_not_found", "The memory does not exist, or is another user's.", "Check the id."),
    (
        "memory_not_mounted",
        "No memory that the caller sees is at this path of the session's files.",
        "Use one of the folders that the message names.",
    ),
    ("memory_version_not_found", "The version of the memory does not exist.", "Check the id."),
)
MEMORY_CONFLICTS = (
    (
        "memory_archived",
        "The memory is archived, so its files are read-only.",
        "Set its `status` to `active`.",
    ),
    (
        "memory_folder",
        "A whole folder would be copied or moved into, out of or within memories.",
        "Do it file by file.",
    ),
    (
        "memory_history_full",
        "The versions of the memory's files would exceed 256 MB, or 100,000 together.",
        "Redact versions that nobody needs, or continue in another memory.",
    ),
    ("memory_not_archived", "The memory is in use, and would be removed.", "Archive it first."),
    (
        "memory_of_owner",
        "The memory of an agent or a user would get another name.",
        "Change the name in the configuration that mounts it.",
    ),
    (
        "memory_version_current",
        "A file of the memory has the content that would be removed.",
        "Change or delete the file first.",
    ),
    ("memory_version_redacted", "The content of the version was removed.", "Read another version."),
    (
        "too_many_memories",
        "The organization has 10,000 memories, with archived ones.",
        "Purge archived ones.",
    ),
    (
        "too_many_memory_versions",
        "The file has 1,000 versions.",
        "Continue in another file. Its versions stay.",
    ),
)
CHANGED_MEMORIES = (
    (
        "memory_hash_required",
        "A tool would replace a file of a memory without naming what it replaces.",
        "The model is told to read the file, and to give its hash as `expected_hash`.",
    ),
)
LARGE_MEMORIES = (
    ("memory_file_too_large", "The file of a memory is larger than 100 KB.", "Split the file."),
    (
        "memory_full",
        "The memory would have more than 10 MB, or more than 1,000 files and folders.",
        "Delete files.",
    ),
)
