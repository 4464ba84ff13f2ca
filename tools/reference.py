"""Writes docs/reference/{settings,events,routes,capabilities,errors,metrics}.md from the code.

A test fails while these pages are out of date. Usage: python -m tools.reference
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from perdure.api.openapi.document import build_document
from perdure.api.openapi.error_codes import PROGRAMS, RESPONSES, TOOLS, TURNS, ErrorCode
from perdure.capabilities.port import Capability, Tool
from perdure.capabilities.registry import Registry
from perdure.domain.events import EVENT_DATA, LIVE_TYPES, RESERVED_TYPES
from perdure.domain.instruments import Counter, Instrument, instruments_of
from perdure.domain.metrics import MOST_MODELS, MOST_TOOLS, Metrics
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings, described, plain
from perdure.tools.built_in import catalogue
from perdure.tools.tool_approval import TOOL_APPROVAL

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"

WIDTH = 110

NOTE = "<!-- Written by tools/reference.py from the code: change it there. -->"

CODE = re.compile(r"`[^`]{1,100}`")
LIST_MARKER = re.compile(r" (?=(?:[-*+>#|]|\d+[.)])(?: |$))")
"""What would start a list, a heading or a quotation at the beginning of a line."""


def wrap(text: str, first: str = "", indent: str = "") -> str:
    """Markdown prose in lines of up to `WIDTH` characters, without a break inside `code`."""
    text = CODE.sub(lambda found: found[0].replace(" ", "\0"), " ".join(text.split()))
    lines = textwrap.wrap(
        LIST_MARKER.sub("\0", text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ")


def items(entries: Iterable[tuple[str, str]]) -> str:
    """A list: each entry has a line of its own for its name, and its text below."""
    return "\n".join(f"* {name}\\\n{wrap(text, '  ', '  ')}" for name, text in entries)


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTE, *parts]) + "\n"


def settings_page() -> str:
    entries = [
        (f"**`{each.variable}`**" + (f", default `{each.default}`" if each.default else ""), each.meaning)
        for each in described()
    ]
    return page(
        "Settings",
        wrap(
            "The server reads its settings from environment variables. An empty variable counts as not set. "
            "Options of `perdure serve` (`--host`, `--port`, `--data`, `--database-url`, `--tools`) override "
            "the first few. If a value is invalid, the server refuses to start and names the setting."
        ),
        items(entries),
        wrap(
            "The [`perdure` command](cli.md) has settings of its own: `PERDURE_URL`, `PERDURE_TOKEN`, "
            "`PERDURE_ORG` and `PERDURE_DEBUG`. Providers with neither an API key nor a `base_url` of their "
            "own use the vendors' own variables `OPENAI_API_KEY` and `ANTHROPIC_API_KEY`. The export of "
            "[traces](../guide/operate.md#traces) has OpenTelemetry's variables (`OTEL_*`)."
        ),
    )


def fields_of(name: str, schemas: dict[str, Any]) -> Iterator[str]:
    schema = schemas[name]
    for field in schema.get("properties", {}):
        yield f"`{field}`" if field in schema.get("required", ()) else f"`{field}`?"


def events_page(schemas: dict[str, Any]) -> str:
    return page(
        "Events",
        wrap(
            "Everything that happens in a session is an event. `GET /v1/sessions/{session_id}/events` "
            "returns events in pages, and `.../sse` streams them. The Python client returns their data as "
            "structs of `perdure.domain.events`."
        ),
        wrap(
            f"An event is an object with {', '.join(fields_of('Event', schemas))}. `?` marks optional fields."
        ),
        wrap(
            "The log's events are numbered by `sequence`: 1, 2, 3 and so on, without gaps. `context` tells "
            f"where an event belongs: {', '.join(fields_of('EventContext', schemas))}. A started event and "
            "its completed event share a span. The page `/docs` of a running server explains all fields, "
            "under the name of the event's data type."
        ),
        "## Events in the log",
        wrap("A turn always ends with `turn.completed`, `turn.failed`, `turn.cancelled` or `turn.sealed`."),
        *event_parts(schemas, live=False),
        "## Live events",
        wrap(
            "These are streamed and not logged: the event that completes them replaces them. They have an "
            "id, so that a follower can resume after one, but no `sequence`."
        ),
        *event_parts(schemas, live=True),
        "## Reserved types",
        wrap(
            "This release does not emit these. The filters `types` and `exclude` accept them: "
            f"{', '.join(f'`{kind}`' for kind in sorted(RESERVED_TYPES))}."
        ),
        "## Frames of the stream",
        items(
            [
                ("`event: connected`", 'The first frame. Its data is `{"status":"connected"}`.'),
                ("`event:` and an event's type", "The data is the event, and `id:` is the event's id."),
                ("`event: disconnecting`", DISCONNECTING),
                ("`: heartbeat`", "A comment, sent after 30 seconds without other frames."),
            ]
        ),
    )


DISCONNECTING = (
    "The last frame: reconnect with the last id after `retry_ms` milliseconds. The `reason` is "
    "`connection_cycle` (about every five minutes), `slow_consumer` (too much data was waiting), `shutdown`, "
    "`unavailable` (the database does not respond), `access_ended` (the access token was revoked or expired, "
    "or its user was removed) or `session_deleted`."
)


def event_parts(schemas: dict[str, Any], *, live: bool) -> Iterator[str]:
    for kind, data in EVENT_DATA.items():
        if (kind in LIVE_TYPES) is live:
            yield f"### `{kind}`"
            yield wrap(schemas[data.__name__]["description"])
            if fields := ", ".join(fields_of(data.__name__, schemas)):
                yield wrap(f"Data: {fields}")


def _head(route: str, operation_id: str) -> str:
    line = f"* {route} (`{operation_id}`)"
    return f"{route} (`{operation_id}`)" if len(line) < WIDTH else f"{route}\n  (`{operation_id}`)"


def routes_page(document: dict[str, Any]) -> str:
    parts = []
    for tag in document["tags"]:
        entries = []
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if tag["name"] in operation["tags"]:
                    words = f"{operation['summary']}. {operation.get('description', '')}"
                    entries.append((_head(f"**{method.upper()}** `{path}`", operation["operationId"]), words))
        title = tag["name"].replace("_", " ").capitalize()
        parts += [f"## {title}", wrap(tag["description"]), items(entries)]
    return page(
        "Routes",
        wrap(
            "Each route is listed with its operation id. All paths are also served below `/api`. A running "
            "server documents all parameters, bodies and answers at `/docs` (for people) and "
            "`/api-doc/openapi.json` (for programs)."
        ),
        "These rules apply to all routes:",
        "\n".join(wrap(rule, "* ", "  ") for rule in ROUTE_RULES),
        *parts,
    )


ROUTE_RULES = (
    "An id is a prefix such as `session_` and 32 hexadecimal digits.",
    "Times are RFC 3339 in UTC, with microseconds.",
    (
        'A list is `{"data": [...]}`. Lists with pages take `offset` and `limit` (1 to 100) and add '
        "`total`, `offset` and `limit`."
    ),
    "`PATCH` changes only the fields that are sent. `null` clears a field. An empty object changes nothing.",
    "Unknown fields and parameters are ignored.",
    "Requests that create something accept an `Idempotency-Key`.",
    "All [errors](errors.md) have the same format.",
)


def capability_part(capability: Capability) -> list[str]:
    facts = []
    if capability.features:
        facts.append("Features: " + ", ".join(f"`{feature}`" for feature in capability.features) + ".")
    if capability.dependencies:
        facts.append("Also enables: " + ", ".join(f"`{each}`" for each in capability.dependencies) + ".")
    if capability.aliases:
        facts.append("Aliases: " + ", ".join(f"`{each}`" for each in capability.aliases) + ".")
    parts = [f"## `{capability.id}`", wrap(" ".join([capability.description, *facts]))]
    if capability.config_schema is not None:
        entries = [
            (f"`{name}`, {schema_words(schema)}", str(schema.get("description", "")))
            for name, schema in capability.config_schema.get("properties", {}).items()
        ]
        parts += ["Configuration:", items(entries)]
    for tool in capability.tools(None):
        parts += [f"### `{tool.name}`", wrap(tool.description), "\n".join(tool_facts(tool))]
    return parts


def tool_facts(tool: Tool) -> Iterator[str]:
    if arguments := ", ".join(arguments_of(tool)):
        yield wrap(f"Arguments: {arguments}.", "* ", "  ")
    retried = tool.hints.readonly or tool.hints.idempotent
    yield f"* After a crash: {'retried' if retried else 'not retried'}."
    if modes := ", ".join(approval_modes(tool)):
        yield f"* Requires approval in mode: {modes}."


def schema_words(schema: dict[str, Any]) -> str:
    values = schema.get("enum")
    words = ", ".join(f"`{value}`" for value in values) if values else str(schema.get("type", ""))
    return f"{words}; `{plain(schema['default'])}` by default" if "default" in schema else words


def arguments_of(tool: Tool) -> Iterator[str]:
    needed = tool.parameters.get("required", ())
    for name in tool.parameters.get("properties", {}):
        yield f"`{name}`" if name in needed else f"`{name}`?"


def approval_modes(tool: Tool) -> Iterator[str]:
    """The modes of `tool_approval` in which calls of the tool require approval."""
    for mode in ("normal", "protective"):
        if TOOL_APPROVAL.gate({"mode": mode}, tool):
            yield f"`{mode}`"


def capabilities_page() -> str:
    parts = [part for capability in Registry(catalogue()).all() for part in capability_part(capability)]
    return page(
        "Capabilities",
        wrap(
            "A harness, an agent or a session enables capabilities: "
            '`"capabilities": [{"ref": "current_time"}]`, with `config` for those that take a configuration. '
            "Capabilities of all layers are combined; if two layers configure the same capability, the later "
            "layer's configuration wins, except for policies, which layers can only tighten. "
            "`GET /v1/capabilities` lists the capabilities of a server."
        ),
        wrap(
            "Each tool is listed with the description that the model receives. `?` marks optional arguments. "
            "If the server dies during a call, it retries the call only if the tool is read-only or "
            "idempotent; otherwise the model is told that the call was interrupted. The capability "
            "[`tool_approval`](#tool_approval) has modes in which calls of a tool require approval by a "
            "person."
        ),
        *parts,
    )


def codes(errors: Iterable[ErrorCode]) -> str:
    return items(
        (
            f"`{error.code}`" + (f", status {error.status}" if error.status else ""),
            f"{error.meaning} {error.remedy}",
        )
        for error in errors
    )


def errors_page(schemas: dict[str, Any]) -> str:
    return page(
        "Errors",
        wrap(
            "An error response has the type `application/problem+json` and these fields: "
            f"{', '.join(fields_of('ErrorResponse', schemas))}. `code` is for programs and does not change. "
            "`detail` is for people and says what to fix. `field` is the path of the invalid field, if there "
            "is exactly one. `error` repeats `code` and `message` for clients that look there."
        ),
        wrap(
            "A rejected request has changed nothing, with one exception: a 503 whose `outcome` is `unknown` "
            "may or may not have been carried out, because the database did not answer a commit. Repeat it "
            "with the same `Idempotency-Key`. `retryable` is true if a repetition may succeed. 429 and 503 "
            "may carry `Retry-After`, in seconds."
        ),
        "## HTTP responses",
        codes(RESPONSES),
        "## Failed turns",
        wrap("The `error_code` of a `turn.failed` event. The message before it tells the user the same."),
        codes(TURNS),
        "## Tool calls",
        wrap("A failed tool call does not fail the turn: the model receives the error and continues."),
        codes(TOOLS),
        "## The command and the client",
        wrap("Errors that the `perdure` command and the Python client raise themselves."),
        codes(PROGRAMS),
    )


def metric_name(each: Instrument) -> str:
    """The name as queries have it."""
    return f"{each.name}_total" if isinstance(each, Counter) else each.name


def metrics_page() -> str:
    entries = []
    for each in instruments_of(Metrics()):
        labels = ", ".join(f"`{label}`" for label in each.labels)
        head = f"**`{metric_name(each)}`**, {each.kind}" + (f" by {labels}" if labels else "")
        entries.append((head, each.help))
    return page(
        "Metrics",
        wrap(
            "`GET /metrics` returns these in the text format of Prometheus, each process its own. "
            "[Operate](../guide/operate.md#metrics) says who may read them, and shows a dashboard and alerts."
        ),
        wrap(
            "A histogram has `_bucket` with the label `le`, `_sum` and `_count`. Durations are in seconds. "
            f"At most {MOST_MODELS} models and {MOST_TOOLS} tools have labels of their own; further ones are "
            "counted as `other`. `route` is the template of the path, and `-` for a path that no route has. "
            "`provider` is the provider's type, and `code` one of the [error codes](errors.md)."
        ),
        items(entries),
        wrap(
            "The process itself is described by `process_resident_memory_bytes`, "
            "`process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, "
            "`process_virtual_memory_bytes`, `process_start_time_seconds` and `python_info`."
        ),
    )


def pages() -> dict[str, str]:
    """Every page by its file name."""
    document = build_document(all_routes(Settings(), ThisProcess()), "")
    schemas: dict[str, Any] = document["components"]["schemas"]
    return {
        "settings.md": settings_page(),
        "events.md": events_page(schemas),
        "routes.md": routes_page(document),
        "capabilities.md": capabilities_page(),
        "errors.md": errors_page(schemas),
        "metrics.md": metrics_page(),
    }


def main() -> int:
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
