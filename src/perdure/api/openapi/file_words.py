"""What the OpenAPI document says about operations on files and workspaces. See `words`."""

from __future__ import annotations

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
