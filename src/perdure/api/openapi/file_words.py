"""What the OpenAPI document says about files and workspaces. See `words`, `fields` and `examples`."""

from __future__ import annotations

from typing import Any

FILE_TAGS = {
    "workspaces": "A workspace is a tree of files. Every session has one of its own, or shares one that was made by itself.",
    "workspace files": "The files of a workspace.",
    "session files": "The files of the workspace that a session works in: the same as below that workspace.",
}

_FILES = {
    "get_root": "What is in it, by path; with `recursive` also what is in the folders in it.",
    "get_path": (
        "A file comes with its content: text as it is, anything else in base64. The entity tag is the content's SHA-256. Of a folder "
        "comes what is in it."
    ),
    "create_path": "Folders above it are made. What is there already is not changed: the answer is 409.",
    "update_path": (
        "Sets the content, the read-only flag, or both. With `expected_hash`, or the hash in `If-Match`, a file that somebody else has "
        "changed since stays as it is: the answer is 412. A read-only file takes content only together with `is_readonly: false`."
    ),
    "delete_path": (
        "A folder with something in it goes only with `recursive`; one with a read-only file in it stays. When nothing was there, "
        "`deleted` is false."
    ),
    "copy_file": "Folders are copied with all that is in them. Nothing may be at the target. Contents are kept once, so a copy is quick.",
    "move_file": "Folders are moved with all that is in them. Nothing may be at the target; read-only files stay where they are.",
    "grep_files": (
        "Looks through the text files, line by line, with a regular expression of RE2, for up to ten seconds and 1,000 lines; "
        "`truncated` says that there may be more. `path_pattern` is a glob: `*`, `?`, `**`, `[a-z]`, `{a,b}`; one without a `/` is for "
        "names in any folder."
    ),
    "stat_file": "Without the content.",
    "download_path": "The bytes, to be saved under the file's name.",
    "preview_path": "The text as it is, up to 1 MB, on a page without scripts. Files that are not text are refused.",
}

FILE_OPERATIONS = {
    **_FILES,
    **{f"session_{name}": words for name, words in _FILES.items()},
    "create_workspace": "It belongs to no session. `workspace_id` of a new session makes it work there.",
    "list_workspaces": "Newest first, without those that belong to a session; archived ones only if asked for.",
    "get_workspace": "That of a session has the session's hex digits in its id.",
    "update_workspace": "A field that is left out stays; `null` clears the description. The status `active` brings one back.",
    "delete_workspace": (
        "It is hidden from lists and takes no new sessions; its files can be read, and no longer changed. A session's own workspace "
        "goes with its session."
    ),
}

FILE_FIELDS = {
    "FileInfo.id": "A UUID of what is at this path of this workspace.",
    "SessionFile.id": "A UUID of what is at this path of this workspace.",
    "FileInfo.session_id": "The workspace's UUID; for a session's own workspace also the session's.",
    "SessionFile.session_id": "The workspace's UUID; for a session's own workspace also the session's.",
    "FileInfo.path": "Its absolute path.",
    "SessionFile.path": "Its absolute path.",
    "FileStat.path": "Its absolute path.",
    "StatFile.path": "The path to look at.",
    "FileInfo.name": "The last name of its path.",
    "SessionFile.name": "The last name of its path.",
    "FileStat.name": "The last name of its path.",
    "is_directory": "Whether it is a folder.",
    "is_readonly": "Whether it must not be changed, moved or deleted.",
    "FileInfo.size_bytes": "How long it is.",
    "SessionFile.size_bytes": "How long it is.",
    "FileStat.size_bytes": "How long it is.",
    "hash": "SHA-256 of the content, in hex; folders have none.",
    "SessionFile.content": "The content; it comes only when a file is read.",
    "CreateFile.content": "The content; empty if left out.",
    "UpdateFile.content": "The new content; it stays if left out.",
    "encoding": "What `content` is: `text`, or `base64`.",
    "expected_hash": "The hash that was read: a file that has changed since stays as it is.",
    "src_path": "Where it is.",
    "dst_path": "Where it shall be.",
    "DeletedFile.deleted": "Whether there was something to delete.",
    "pattern": "A regular expression of RE2.",
    "path_pattern": "Only files whose paths fit this glob.",
    "GrepResults.data": "The files with lines that match, by path.",
    "truncated": "Whether there may be more.",
    "matches": "The lines that match.",
    "line_number": "The line's number, from 1.",
    "line": "The line; a long one is cut around the match.",
    "recursive": "Also what is in the folders in it.",
    "Workspace.name": "What people call it.",
    "CreateWorkspace.name": "What people call it; no other workspace may have the same name.",
    "UpdateWorkspace.name": "What people call it; no other workspace may have the same name.",
    "Workspace.status": "`archived` ones are hidden, and can be read only.",
    "UpdateWorkspace.status": "`active` brings an archived workspace back.",
    "Workspace.size_bytes": "How much its files hold together.",
    "file_count": "How many files and folders it has.",
    "Workspace.session_id": "The session whose own it is; none if it was made by itself.",
    "CreateSession.workspace_id": "A workspace to share; one of its own if left out.",
    "path": "The file. Slashes in it may be sent as they are.",
}

_NUMBER = "0192f0c1b2a37b5c8d4e5f60718293a4"
_TIME = "2026-03-14T09:26:53.589793Z"
_STAT: dict[str, Any] = {
    "path": "/notes/today.md",
    "name": "today.md",
    "is_directory": False,
    "is_readonly": False,
    "size_bytes": 10,
    "created_at": _TIME,
    "updated_at": _TIME,
    "hash": "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9",
}
_INFO: dict[str, Any] = {
    "id": "2c8b6a52-6f1c-5c27-9d0b-3f1c0a7a4e11",
    "session_id": "0192f0c1-b2a3-7b5c-8d4e-5f60718293a4",
    **_STAT,
}
_URL = f"/v1/workspaces/workspace_{_NUMBER}"

FILE_EXAMPLES: dict[str, Any] = {
    "FileInfo": _INFO,
    "FileStat": _STAT,
    "SessionFile": {**_INFO, "content": "Buy milk.\n", "encoding": "text"},
    "DeletedFile": {"deleted": True},
    "GrepResults": {
        "data": [
            {"path": "/plan.md", "matches": [{"path": "/plan.md", "line_number": 7, "line": "TODO: ask Ada"}]}
        ],
        "truncated": False,
    },
    "Workspace": {
        "id": f"workspace_{_NUMBER}",
        "name": "Quarterly report",
        "status": "active",
        "size_bytes": 4096,
        "file_count": 3,
        "created_at": _TIME,
        "updated_at": _TIME,
        "self_url": _URL,
        "view_url": _URL,
        "ui_link": _URL,
        "allowed_actions": [{"rel": "self", "method": "GET", "href": _URL, "operation_id": "get_workspace"}],
    },
}
