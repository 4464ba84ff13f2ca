"""Rewrites `while read` loops over long files, of which bashkit can run only the first lines.

bashkit copies the rest of the input for each `read`, and counts each as a command. A loop over an array has
neither cost. A short file is read by the loop as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import bashkit

LONG = 64 * 1024
"""Bytes of a file from which the rewritten loop reads it."""

_LOOP = re.compile(
    r"(?P<before>^|[;\n{]|\bthen\b|\bdo\b|\belse\b)(?P<space>\s{0,40})"
    r"while[ \t]{1,9}(?P<keep>IFS=[ \t]{1,9})?read[ \t]{1,9}-r[ \t]{1,9}(?P<name>[A-Za-z_]\w{0,60})"
    r"[ \t]{0,9}[;\n]\s{0,40}do\b(?P<body>(?:[^<#]|(?<=[{$])#){1,4000}?)\bdone[ \t]{0,9}<[ \t]{0,9}"
    r"(?P<file>[\w./-]{1,200}|\"?\$\{?\w{1,60}\}?\"?|\"[\w ./-]{1,200}\"|'[\w ./-]{1,200}')"
    r"(?=[\s;|&>)]|$)"
)
_NESTED = re.compile(r"\b(?:do|done|read|mapfile|readarray|select)\b")
_COMMENT = re.compile(r"(?:^|\s)#")
_QUOTES = re.compile(r"\\.|'[^']{0,20000}'|\"(?:[^\"\\]|\\.){0,20000}\"", re.DOTALL)

_LEAVES_INPUT = frozenset(
    [
        "[",
        "[[",
        "test",
        "echo",
        "printf",
        ":",
        "true",
        "false",
        "let",
        "local",
        "declare",
        "export",
        "continue",
        "break",
    ],
)
"""Commands that do not read their standard input, which is the file in the loop as it was written."""


def rewrite_read_loops(script: str, analyze: Callable[[str], bashkit.ScriptAnalysis]) -> str:
    """Return the script with those loops over a file's lines rewritten whose meaning stays the same.

    These are `while read -r NAME; do ...; done < FILE` with commands that do not read their input.

    Args:
        analyze: tells which commands a script has.
    """
    if "read" not in script or "<<" in script:
        return script
    pieces, end = [], 0
    for found in _LOOP.finditer(script):
        start = found.start() + len(found["before"] + found["space"])
        if _is_code(script[:start]) and _leaves_input(found["body"], analyze):
            pieces += [script[end:start], _rewritten(found, script[start : found.end()])]
            end = found.end()
    return "".join((*pieces, script[end:]))


def _is_code(before: str) -> bool:
    """Whether what follows is neither quoted nor a comment."""
    rest = _QUOTES.sub("", before)
    return not (_COMMENT.search(before) or "'" in rest or '"' in rest or "`" in rest)


def _leaves_input(body: str, analyze: Callable[[str], bashkit.ScriptAnalysis]) -> bool:
    if _NESTED.search(body):
        return False
    try:
        found = analyze(body)
    except Exception:  # noqa: BLE001 (whatever the parser does not understand is left as it is)
        return False
    return not (found.is_opaque or found.functions) and _LEAVES_INPUT.issuperset(found.command_names)


def _rewritten(loop: re.Match[str], original: str) -> str:
    """The loop over an array if the file is long, else the original.

    Like `read`, it leaves out a last line that does not end, and gives its text to the variable afterwards.
    """
    name, body = loop["name"], loop["body"]
    file = f'"{loop["file"]}"' if loop["file"].startswith("$") else loop["file"]
    trim = "" if loop["keep"] else " | sed 's/^[ \\t]*//; s/[ \\t]*$//'"
    lines = "__lines_of_loop"
    after = (
        ""
        if re.search(r"\bbreak\b", body)
        else f'{name}=$(tail -n +"$((${{#{lines}[@]}}+1))" {file}{trim}); '
    )
    return (
        f'if [ -f {file} ] && [ "$(wc -c < {file})" -gt {LONG} ]; then '
        f'mapfile -t {lines} < <(head -n "$(wc -l < {file})" {file}{trim}); '
        f'for {name} in "${{{lines}[@]}}"; do{body}done; {after}unset {lines}; '
        f"else {original}; fi"
    )
