"""Writes docs/reference/{settings,events,routes,capabilities,errors}.md from what the code says about itself.

A test fails while they are not current. Usage: python tools/reference.py
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from perdure.api.openapi.document import build_document
from perdure.api.openapi.error_codes import ANSWERS, PROGRAMS, TOOLS, TURNS, ErrorCode
from perdure.capabilities.port import Capability, Tool
from perdure.capabilities.registry import Registry
from perdure.domain.events import EVENT_DATA, LIVE_TYPES, RESERVED_TYPES
from perdure.settings import Settings
from perdure.tools.built_in import catalogue
from perdure.tools.tool_approval import TOOL_APPROVAL
from perdure.wiring import all_routes

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"

DISCONNECTING = (
    "The last frame: connect again with the last id, after `retry_ms`. The `reason`: `connection_cycle` (every five minutes or so), "
    "`slow_consumer` (too much was waiting), `shutdown`, `unavailable` (the database does not answer) or `session_deleted`."
)

NOTE = "<!-- Made by tools/reference.py from the code: change it there. -->"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTE, *parts]) + "\n"


def setting_words() -> dict[str, str]:
    """What the docstring of `Settings` says about each attribute."""
    _, _, attributes = inspect.cleandoc(Settings.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in attributes.splitlines():
        begins = re.match(r" {4}(\w+): (.*)", line)
        if begins:
            name = begins[1]
            found[name] = begins[2]
        elif line.strip():
            found[name] += " " + line.strip()
    return found


def settings_page() -> str:
    words, defaults = setting_words(), Settings()
    rows = []
    for name in Settings.__struct_fields__:
        default = getattr(defaults, name)
        shown = "" if default == "" else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        rows.append((f"`PERDURE_{name.upper()}`", shown, words[name][0].upper() + words[name][1:]))
    return page(
        "Settings",
        "The server reads its settings from environment variables; an empty one counts as not set. `perdure serve` has options for "
        "the first few (`--host`, `--port`, `--data`, `--database-url`), which win. A value that does not fit stops the start, with "
        "the name of the setting.",
        table(("variable", "default", "meaning"), rows),
        "Settings of the `perdure` command itself (`PERDURE_URL`, `PERDURE_TOKEN`, `PERDURE_ORG`, `PERDURE_DEBUG`) are in "
        "[its reference](cli.md). Keys of model vendors may also stand in the vendors' own variables (`OPENAI_API_KEY`, "
        "`ANTHROPIC_API_KEY`): they are used for providers that have neither a key nor an address of their own.",
    )


def fields_of(name: str, schemas: dict[str, Any]) -> Iterator[str]:
    schema = schemas[name]
    for field in schema.get("properties", {}):
        yield f"`{field}`" if field in schema.get("required", ()) else f"`{field}`?"


def events_page(schemas: dict[str, Any]) -> str:
    def rows(live: bool) -> list[tuple[str, ...]]:
        return [
            (f"`{kind}`", schemas[data.__name__]["description"], ", ".join(fields_of(data.__name__, schemas)))
            for kind, data in EVENT_DATA.items()
            if (kind in LIVE_TYPES) is live
        ]

    return page(
        "Events",
        "Everything that happens in a session is an event. `GET /v1/sessions/{session_id}/events` reads them in pages, `.../sse` follows "
        "them; the Python client hands out their data as structs of `perdure.domain.events`.",
        "An event is an object with "
        + ", ".join(fields_of("Event", schemas))
        + ". `?` marks what may be missing. The log's events are "
        "numbered by `sequence`: 1, 2, 3 and so on, without a gap. The `context` says where an event belongs: "
        + ", ".join(fields_of("EventContext", schemas))
        + ". Started and completed share a span.",
        "## In the log",
        table(("type", "what it says", "data"), rows(live=False)),
        "A turn always ends with one of `turn.completed`, `turn.failed`, `turn.cancelled` and `turn.sealed`. "
        "The fields are explained on a server's `/docs` page, under the name of the type's data.",
        "## Only live",
        "These pass by on the stream and are not in the log: what completes them replaces them. They have an id, so that a follower can "
        "resume after one, and no `sequence`.",
        table(("type", "what it says", "data"), rows(live=True)),
        "## Known, and not emitted yet",
        "Filters (`types`, `exclude`) take these as well: "
        + ", ".join(f"`{kind}`" for kind in sorted(RESERVED_TYPES))
        + ".",
        "## Frames of the stream",
        table(
            ("`event:`", "meaning"),
            [
                ("`connected`", 'The first frame. Its data is `{"status":"connected"}`.'),
                ("an event's type", "Its data is the event; `id:` is the event's id."),
                ("`disconnecting`", DISCONNECTING),
                ("a comment", "`: heartbeat` after 30 seconds of silence."),
            ],
        ),
    )


def routes_page(document: dict[str, Any]) -> str:
    parts = []
    for tag in document["tags"]:
        rows = []
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if tag["name"] in operation["tags"]:
                    words = f"{operation['summary']}. {operation.get('description', '')}".strip()
                    rows.append((f"`{method.upper()}`", f"`{path}`", f"`{operation['operationId']}`", words))
        parts += [
            f"## {tag['name'].replace('_', ' ').capitalize()}",
            tag["description"],
            table(("", "path", "operation", "what it does"), rows),
        ]
    return page(
        "Routes",
        "Every path is served below `/api` as well. A running server explains all parameters, bodies and answers at `/docs` (to read) and "
        "`/api-doc/openapi.json` (for programs).",
        "Common to all: ids look like `session_` and 32 hex digits. Times are RFC 3339, in UTC, to the microsecond. Lists answer "
        '`{"data": [...]}`; those with pages take `offset` and `limit` (1 to 100) and add `total`, `offset` and `limit`. '
        "`PATCH` changes the fields that are there; `null` clears; an empty object changes nothing. Unknown fields and parameters are "
        "ignored. Requests that make something take an `Idempotency-Key`. [Errors](errors.md) have one shape.",
        *parts,
    )


def capability_part(capability: Capability) -> list[str]:
    facts = []
    if capability.features:
        facts.append("Features: " + ", ".join(f"`{feature}`" for feature in capability.features) + ".")
    if capability.dependencies:
        facts.append("Brings along: " + ", ".join(f"`{each}`" for each in capability.dependencies) + ".")
    if capability.aliases:
        facts.append("Also known as " + ", ".join(f"`{each}`" for each in capability.aliases) + ".")
    parts = [f"## `{capability.id}`", " ".join([capability.description, *facts])]
    if capability.config_schema is not None:
        rows = [
            (f"`{name}`", schema_words(schema), str(schema.get("description", "")))
            for name, schema in capability.config_schema.get("properties", {}).items()
        ]
        parts.append(table(("configuration", "", "meaning"), rows))
    tools = capability.tools(None)
    if tools:
        calls = [
            (
                f"`{tool.name}`",
                tool.description,
                ", ".join(arguments_of(tool)),
                on_recovery(tool),
                held_back(tool),
            )
            for tool in tools
        ]
        parts.append(
            table(("tool", "what the model is told", "arguments", "after a crash", "asked about"), calls)
        )
    return parts


def schema_words(schema: dict[str, Any]) -> str:
    values = schema.get("enum")
    words = ", ".join(f"`{value}`" for value in values) if values else str(schema.get("type", ""))
    return f"{words}; `{schema['default']}` if left out" if "default" in schema else words


def arguments_of(tool: Tool) -> Iterator[str]:
    needed = tool.parameters.get("required", ())
    for name in tool.parameters.get("properties", {}):
        yield f"`{name}`" if name in needed else f"`{name}`?"


def on_recovery(tool: Tool) -> str:
    return "run again" if tool.hints.readonly or tool.hints.idempotent else "not run again"


def held_back(tool: Tool) -> str:
    """In which modes of `tool_approval` a person is asked before the tool runs."""
    modes = [mode for mode in ("normal", "protective") if TOOL_APPROVAL.gate({"mode": mode}, tool)]
    return ", ".join(f"`{mode}`" for mode in modes)


def capabilities_page() -> str:
    parts = [part for capability in Registry(catalogue()).all() for part in capability_part(capability)]
    return page(
        "Capabilities",
        'A harness, an agent or a session turns capabilities on: `"capabilities": [{"ref": "current_time"}]`, with `config` where one '
        "takes a configuration. Layers add up; for the same capability the later layer's configuration wins. `GET /v1/capabilities` "
        "lists what a server has.",
        "`?` marks arguments that may be left out. When a server dies in the middle of a call, the call is run again only if doing it "
        "twice comes to the same as once; otherwise the model is told that it was interrupted. *Asked about* names the modes of "
        "[`tool_approval`](#tool_approval) that hold calls of the tool back until somebody allows them.",
        *parts,
    )


def codes(errors: Iterable[ErrorCode]) -> str:
    rows = [(f"`{error.code}`", str(error.status or ""), error.meaning, error.remedy) for error in errors]
    if any(row[1] for row in rows):
        return table(("code", "status", "meaning", "what to do"), rows)
    return table(("code", "meaning", "what to do"), [(row[0], *row[2:]) for row in rows])


def errors_page(schemas: dict[str, Any]) -> str:
    return page(
        "Errors",
        "An answer that is not a success is `application/problem+json`: "
        + ", ".join(fields_of("ErrorResponse", schemas))
        + ". "
        "`code` is for programs and does not change; `detail` is for people and says what to mend; `field` is the path of what is at "
        "fault, if that is one thing. `error` has `code` and `message` once more, for clients that look there.",
        "A request that was refused has changed nothing. 429 and 503 may carry `Retry-After`.",
        "## Answers",
        codes(ANSWERS),
        "## Failed turns",
        "The `error_code` of a `turn.failed` event. The message before it says the same to the user.",
        codes(TURNS),
        "## Tool calls",
        "A tool call that fails does not fail the turn: the model reads why, and goes on.",
        codes(TOOLS),
        "## The command and the client",
        "What `perdure` and the Python client raise themselves. A server's errors have the server's codes.",
        codes(PROGRAMS),
    )


def pages() -> dict[str, str]:
    """Every page by its file name."""
    document = build_document(all_routes(Settings(), asyncio.Event(), lambda: 0), "")
    schemas: dict[str, Any] = document["components"]["schemas"]
    return {
        "settings.md": settings_page(),
        "events.md": events_page(schemas),
        "routes.md": routes_page(document),
        "capabilities.md": capabilities_page(),
        "errors.md": errors_page(schemas),
    }


def main() -> int:
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
