"""Pages for people: the API, and the error codes. They need nothing from elsewhere, no script either."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import msgspec

from perdure.api.openapi.error_codes import ANSWERS, TOOLS, TURNS, ErrorCode

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}code,pre{font:14px/1.5 ui-monospace,monospace}pre{background:#f4f4f4;padding:.8rem;"
    "overflow:auto;border-radius:6px}section{border-top:1px solid #8884;padding-top:.5rem;"
    "margin-top:2rem}h3 code{font-size:1rem}h4{margin:1rem 0 .3rem}table{border-collapse:collapse;"
    "width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;"
    "border-bottom:1px solid #8883}td:first-child{white-space:nowrap}.small{opacity:.7}"
    "nav li{list-style:none}nav ul{padding:0;columns:2 20rem}a{color:#0b62c4}:target{background:#fd04}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}"
    "a{color:#7ab4f5}}"
)


def _page(title: str, *parts: str) -> str:
    head = (
        f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    )
    body = f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{''.join(parts)}"
    return f"<!doctype html><html lang=en>{head}{body}</html>"


def prose(text: str) -> str:
    """Text with `code` in it, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def type_words(schema: dict[str, Any]) -> str:
    """A JSON Schema in words, as HTML: references lead to the type's table."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f"<a href='#type-{name}'>{name}</a>"
    for many in ("anyOf", "oneOf"):
        if many in schema:
            return " or ".join(dict.fromkeys(type_words(branch) for branch in schema[many]))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_words(schema.get('items', {}))}{_bounds(schema, 'minItems', 'maxItems', '')}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_words(schema['additionalProperties'])}"
    words = escape({"date-time": "time"}.get(schema.get("format", ""), kind))
    words += _bounds(schema, "minLength", "maxLength", " characters") + _bounds(
        schema, "minimum", "maximum", ""
    )
    return words + (f" like <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else "")


def _with_default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    words = type_words(schema)
    return (
        words
        if default in (None, [], {})
        else f"{words}; <code>{escape(str(default).lower())}</code> if left out"
    )


def _bounds(schema: dict[str, Any], low: str, high: str, unit: str) -> str:
    least, most = schema.get(low), schema.get(high)
    if least is None and most is None:
        return ""
    if most is None:
        return f", {least} or more{unit}"
    return f", up to {most}{unit}" if not least else f", {least} to {most}{unit}"


def _table(rows: list[tuple[str, str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{a}<td>{b}<td>{c}" for a, b, c in rows) + "</table>"


def _json(value: Any) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def api_page(document: dict[str, Any]) -> str:
    """The OpenAPI document as a page."""
    links = (
        "<a href='/api-doc/openapi.json'>openapi.json</a>, <a href='/docs/errors'>error codes</a>, "
        "<a href='#types'>types</a>"
    )
    parts = [f"<p>{prose(document['info']['description'])} See also: {links}.</p>"]
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in document["tags"]:
        mine = [each for each in operations if tag["name"] in each[2]["tags"]]
        links = "".join(
            f"<li><a href='#{each['operationId']}'><code>{method.upper()} {escape(path)}</code></a>"
            for path, method, each in mine
        )
        parts.append(
            f"<h2>{escape(tag['name'])}</h2><p>{prose(tag['description'])}</p><nav><ul>{links}</ul></nav>"
        )
        parts += [_operation(*each, document) for each in mine]
    parts.append("<h2 id=types>Types</h2>")
    parts += [_type(name, schema) for name, schema in document["components"]["schemas"].items()]
    return _page(f"Perdure API {document['info']['version']}", *parts)


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    name = operation["operationId"]
    words = f"<b>{prose(operation['summary'])}.</b> {prose(operation.get('description', ''))}"
    lines = [
        f"<section id='{name}'><h3><code>{method.upper()} {escape(path)}</code></h3>",
        f"<p>{words} <a class=small href='#{name}'>{name}</a></p>",
    ]
    rows = []
    for each in operation.get("parameters", ()):
        parameter = (
            document["components"]["parameters"][each["$ref"].rsplit("/", 1)[1]] if "$ref" in each else each
        )
        needed = ", required" if parameter["required"] and parameter["in"] != "path" else ""
        where = f"<code>{escape(parameter['name'])}</code> <span class=small>{parameter['in']}{needed}</span>"
        rows.append((where, _with_default(parameter["schema"]), prose(parameter.get("description", ""))))
    if rows:
        lines.append(f"<h4>Parameters</h4>{_table(rows)}")
    if "requestBody" in operation:
        lines.append(_content("Body", operation["requestBody"]["content"]))
    errors = []
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            errors.append(
                f"<a href='/docs/errors#status-{status}'>{status} {_title_of(answer, document)}</a>"
            )
        elif "content" in answer:
            lines.append(_content(f"Answer {status}", answer["content"]))
        else:
            lines.append(f"<h4>Answer {status}</h4><p>{escape(answer['description'])}</p>")
    if errors:
        lines.append(f"<h4>Errors</h4><p>{' · '.join(errors)}</p>")
    return "".join(lines) + "</section>"


def _title_of(answer: dict[str, Any], document: dict[str, Any]) -> str:
    found = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
    return escape(found["description"].rstrip("."))


def _content(title: str, content: dict[str, Any]) -> str:
    (media, described), *_ = content.items()
    example = described.get("example")
    shown = (
        ""
        if example is None
        else f"<pre>{escape(example)}</pre>"
        if isinstance(example, str)
        else _json(example)
    )
    if shown:
        shown = f"<details><summary>Example</summary>{shown}</details>"
    note = "" if media == "application/json" else f" <span class=small>{escape(media)}</span>"
    return f"<h4>{title}: {type_words(described['schema'])}{note}</h4>{shown}"


def _type(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>"
            + (" <span class=small>required</span>" if field in needed else ""),
            _with_default(each),
            prose(each.get("description", "")),
        )
        for field, each in schema.get("properties", {}).items()
    ]
    body = _table(rows) if rows else f"<p>{type_words(schema)}</p>"
    words = prose(schema.get("description", ""))
    return f"<section id='type-{escape(name)}'><h3>{escape(name)}</h3><p>{words}</p>{body}</section>"


def errors_page() -> str:
    """Every error code, with what to do: where the `type` of an error leads."""
    parts = ["<p>Each error names its code. <a href='/docs'>The API</a>.</p>"]
    for status in dict.fromkeys(error.status for error in ANSWERS):
        rows = [_code(error) for error in ANSWERS if error.status == status]
        parts.append(f"<h2 id='status-{status}'>{status}</h2>{_table(rows)}")
    parts.append(f"<h2 id=turns>Failed turns</h2>{_table([_code(error, 'turn-') for error in TURNS])}")
    parts.append(f"<h2 id=tools>Tool calls</h2>{_table([_code(error, 'tool-') for error in TOOLS])}")
    return _page("Perdure error codes", *parts)


def _code(error: ErrorCode, space: str = "") -> tuple[str, str, str]:
    return f"<code id='{space}{error.code}'>{error.code}</code>", prose(error.meaning), prose(error.remedy)
