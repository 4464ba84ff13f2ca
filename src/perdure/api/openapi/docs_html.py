"""HTML pages of the API and of the error codes. They load nothing from other hosts and have no scripts."""

from __future__ import annotations

import re

import msgspec

from perdure.api.openapi.error_codes import RESPONSES, TOOLS, TURNS, ErrorCode
from perdure.domain.markup import escape
from perdure.domain.messages import JsonObject, JsonValue

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
    """Convert text with `code` in backticks to HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def type_html(schema: JsonObject) -> str:
    """Describe a JSON Schema as HTML. References become links to the type's table."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f"<a href='#type-{name}'>{name}</a>"
    for many in ("anyOf", "oneOf"):
        if many in schema:
            return " or ".join(dict.fromkeys(type_html(branch) for branch in schema[many]))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_html(schema.get('items', {}))}{_bounds(schema, 'minItems', 'maxItems', '')}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_html(schema['additionalProperties'])}"
    text = "time" if schema.get("format") == "date-time" else escape(kind)
    text += _bounds(schema, "minLength", "maxLength", " characters")
    text += _bounds(schema, "minimum", "maximum", "")
    return text + (f", pattern <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else "")


def _with_default(schema: JsonObject) -> str:
    default = schema.get("default")
    text = type_html(schema)
    if default in (None, [], {}):
        return text
    return f"{text}; default <code>{escape(str(default).lower())}</code>"


def _bounds(schema: JsonObject, low: str, high: str, unit: str) -> str:
    """Describe the bounds that these two keywords of a schema set; empty without any."""
    minimum, maximum = schema.get(low), schema.get(high)
    if minimum is None and maximum is None:
        return ""
    if maximum is None:
        return f", {minimum} or more{unit}"
    return f", up to {maximum}{unit}" if not minimum else f", {minimum} to {maximum}{unit}"


def _table(rows: list[tuple[str, str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{a}<td>{b}<td>{c}" for a, b, c in rows) + "</table>"


def _json(value: JsonValue) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def api_page(document: JsonObject) -> str:
    """Render the OpenAPI document as a page."""
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
        tagged = [each for each in operations if tag["name"] in each[2]["tags"]]
        links = "".join(
            f"<li><a href='#{operation['operationId']}'><code>{method.upper()} {escape(path)}</code></a>"
            for path, method, operation in tagged
        )
        parts.append(
            f"<h2>{escape(tag['name'])}</h2><p>{prose(tag['description'])}</p><nav><ul>{links}</ul></nav>"
        )
        parts += [_operation(*each, document) for each in tagged]
    parts.append("<h2 id=types>Types</h2>")
    parts += [_type(name, schema) for name, schema in document["components"]["schemas"].items()]
    return _page(f"Perdure API {document['info']['version']}", *parts)


def _operation(path: str, method: str, operation: JsonObject, document: JsonObject) -> str:
    name = operation["operationId"]
    text = f"<b>{prose(operation['summary'])}.</b> {prose(operation.get('description', ''))}"
    lines = [
        f"<section id='{name}'><h3><code>{method.upper()} {escape(path)}</code></h3>",
        f"<p>{text} <a class=small href='#{name}'>{name}</a></p>",
    ]
    rows = []
    for each in operation.get("parameters", ()):
        parameter = (
            document["components"]["parameters"][each["$ref"].rsplit("/", 1)[1]] if "$ref" in each else each
        )
        note = parameter["in"]
        if parameter["required"] and note != "path":
            note += ", required"
        label = f"<code>{escape(parameter['name'])}</code> <span class=small>{note}</span>"
        rows.append((label, _with_default(parameter["schema"]), prose(parameter.get("description", ""))))
    if rows:
        lines.append(f"<h4>Parameters</h4>{_table(rows)}")
    if "requestBody" in operation:
        lines.append(_content("Body", operation["requestBody"]["content"]))
    errors = []
    for status, response in operation["responses"].items():
        if "$ref" in response:
            errors.append(
                f"<a href='/docs/errors#status-{status}'>{status} {_title_of(response, document)}</a>"
            )
        elif "content" in response:
            lines.append(_content(f"Response {status}", response["content"]))
        else:
            lines.append(f"<h4>Response {status}</h4><p>{prose(response['description'])}</p>")
    if errors:
        lines.append(f"<h4>Errors</h4><p>{' · '.join(errors)}</p>")
    return "".join(lines) + "</section>"


def _title_of(reference: JsonObject, document: JsonObject) -> str:
    response = document["components"]["responses"][reference["$ref"].rsplit("/", 1)[1]]
    return escape(response["description"].rstrip("."))


def _content(title: str, content: JsonObject) -> str:
    (media, body), *_ = content.items()
    example = body.get("example")
    details = ""
    if example is not None:
        text = f"<pre>{escape(example)}</pre>" if isinstance(example, str) else _json(example)
        details = f"<details><summary>Example</summary>{text}</details>"
    note = "" if media == "application/json" else f" <span class=small>{escape(media)}</span>"
    return f"<h4>{title}: {type_html(body['schema'])}{note}</h4>{details}"


def _type(name: str, schema: JsonObject) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>"
            + (" <span class=small>required</span>" if field in required else ""),
            _with_default(each),
            prose(each.get("description", "")),
        )
        for field, each in schema.get("properties", {}).items()
    ]
    body = _table(rows) if rows else f"<p>{type_html(schema)}</p>"
    description = prose(schema.get("description", ""))
    return f"<section id='type-{escape(name)}'><h3>{escape(name)}</h3><p>{description}</p>{body}</section>"


def errors_page() -> str:
    """Render the page of error codes, to which the `type` of each error leads."""
    parts = ["<p>All error codes, with what to do. See also: <a href='/docs'>the API</a>.</p>"]
    for status in dict.fromkeys(error.status for error in RESPONSES):
        rows = [_code(error) for error in RESPONSES if error.status == status]
        parts.append(f"<h2 id='status-{status}'>{status}</h2>{_table(rows)}")
    parts.append(f"<h2 id=turns>Failed turns</h2>{_table([_code(error, 'turn-') for error in TURNS])}")
    parts.append(f"<h2 id=tools>Tool calls</h2>{_table([_code(error, 'tool-') for error in TOOLS])}")
    return _page("Perdure error codes", *parts)


def _code(error: ErrorCode, id_prefix: str = "") -> tuple[str, str, str]:
    code = f"<code id='{id_prefix}{error.code}'>{error.code}</code>"
    return code, prose(error.meaning), prose(error.remedy)
