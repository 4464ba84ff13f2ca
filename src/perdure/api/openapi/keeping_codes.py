"""The error codes of backups and exports, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

KEEPING = (
    ("file_exists", "The file to write exists, or is being written.", "Choose another name, or remove it."),
    (
        "invalid_backup",
        "The file is no backup, is damaged or cut, or was made by a newer release.",
        "The message says which. Use another backup, or a newer release.",
    ),
    (
        "invalid_export",
        "The file is no export, is damaged or cut, or was made by a newer release.",
        "The message says which. Export again, or use a newer release.",
    ),
    ("invalid_key", "The key is not the one of the export's secrets.", "Use the key of the export."),
    (
        "master_key_missing",
        "The master key is neither here nor in the backup.",
        "Set PERDURE_MASTER_KEY, put the key's file into the data folder, or leave `--with-key` out.",
    ),
    (
        "restore_running",
        "A restore into the PostgreSQL database is running.",
        "Wait for its end. One that was interrupted undoes what it has done.",
    ),
    (
        "target_not_empty",
        "The data folder or the database is not empty.",
        "Restore into an empty one, so that nothing is lost.",
    ),
    ("tool_failed", "A program of PostgreSQL failed.", "The message has what it said."),
    (
        "tool_missing",
        "A program of PostgreSQL is missing, or older than the server.",
        "Install the package that the message names, or name its folder with `--pg-bin`.",
    ),
)
