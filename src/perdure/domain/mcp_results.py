"""Read what MCP servers answer: lists of tools, resources and prompts, results of calls, questions."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

from msgspec import Struct

from perdure.domain.mcp import (
    McpContent,
    McpInputRequest,
    McpInputRequired,
    McpPrompt,
    McpPromptArgument,
    McpPromptMessage,
    McpResource,
    McpTool,
)
from perdure.domain.mcp_servers import ElicitationPolicy
from perdure.domain.mcp_skills import EXTENSION
from perdure.domain.mcp_wire import Malformed, encoded, header_arguments, text_in
from perdure.domain.messages import JsonObject
from perdure.domain.visible import without_hidden

MAX_TOOLS = 500
MAX_NAME = 200
MAX_TITLE = 200
MAX_DESCRIPTION = 16_000
MAX_INSTRUCTIONS = 16_000
MAX_SCHEMA = 128 << 10
"""Bytes of a tool's schema, as JSON."""
MAX_SCHEMAS = 8 << 20
"""Bytes of the schemas of all tools of a server."""
MAX_BLOCKS = 1_000
MAX_FAULTS = 20
MAX_QUESTIONS = 20
MAX_QUESTION = 4_000
MAX_FORM = 32 << 10
MAX_STATE = 256 << 10
MAX_URI = 8_192
MAX_TTL = 86_400.0
MAX_LISTED = 1_000
"""Resources, or prompts, of one server."""

_PROGRESS = 500
_COUNT = 1e18
_WEB = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)


class ServerInfo(Struct, frozen=True):
    """What a server says about itself."""

    name: str = ""
    version: str = ""
    instructions: str = ""
    has_tools: bool = False
    has_resources: bool = False
    has_prompts: bool = False
    has_skills: bool = False


def server_info(result: JsonObject) -> ServerInfo:
    """Read the result of `initialize` or `server/discover`."""
    meta = result.get("_meta")
    named = meta.get("io.modelcontextprotocol/serverInfo") if isinstance(meta, dict) else None
    named = named if isinstance(named, dict) else result.get("serverInfo")
    named = named if isinstance(named, dict) else {}
    can = result.get("capabilities")
    can = can if isinstance(can, dict) else {}
    more = can.get("extensions")
    return ServerInfo(
        text_in(named.get("name"), MAX_TITLE),
        text_in(named.get("version"), MAX_TITLE),
        text_in(result.get("instructions"), MAX_INSTRUCTIONS),
        isinstance(can.get("tools"), dict),
        isinstance(can.get("resources"), dict),
        isinstance(can.get("prompts"), dict),
        isinstance(more, dict) and isinstance(more.get(EXTENSION), dict),
    )


class ToolList:
    """Collects the tools of all pages, and why others were left out."""

    def __init__(self) -> None:
        self._tools: dict[str, McpTool] = {}
        self._left_out: list[str] = []
        self._over = 0
        self._size = 0
        self._large = 0

    @property
    def tools(self) -> tuple[McpTool, ...]:
        return tuple(self._tools.values())

    @property
    def faults(self) -> tuple[str, ...]:
        shown = self._left_out[:MAX_FAULTS]
        if len(self._left_out) > MAX_FAULTS:
            shown.append(f"{len(self._left_out) - MAX_FAULTS} more tools were left out")
        if self._over:
            shown.append(f"{self._over} tools were left out: a server may offer {MAX_TOOLS}")
        if self._large:
            said = f"a server's schemas may have {MAX_SCHEMAS >> 20} MB"
            shown.append(f"{self._large} tools were left out: {said}")
        return tuple(shown)

    def fault(self, said: str) -> None:
        """Note why something was left out."""
        self._left_out.append(said)

    def take(self, listed: Any) -> None:
        """Add the tools of a page. Raises Malformed: it is not a list."""
        if not isinstance(listed, list):
            raise Malformed("its `tools` is not a list")
        for each in listed:
            if len(self._tools) >= MAX_TOOLS:
                self._over += 1
                continue
            name = each.get("name") if isinstance(each, dict) else None
            try:
                tool, size = _tool(each)
            except Malformed as error:
                shown = repr(text_in(name, 80)) if isinstance(name, str) else "without a name"
                self._left_out.append(f"the tool {shown} was left out: {error}")
                continue
            if tool.name in self._tools:
                self._left_out.append(f"the tool {tool.name[:80]!r} is listed twice: the first one counts")
                continue
            if self._size + size > MAX_SCHEMAS:
                self._large += 1
                continue
            self._size += size
            self._tools[tool.name] = tool


def _tool(listed: Any) -> tuple[McpTool, int]:
    """Read a tool; returns also the bytes of its schemas. Raises Malformed."""
    if not isinstance(listed, dict):
        raise Malformed("it is not an object")
    name = listed.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or without_hidden(name) != name:
        raise Malformed(f"its name must have 1 to {MAX_NAME} characters, none of them hidden")
    hints = listed.get("annotations")
    hints = hints if isinstance(hints, dict) else {}
    schema, size = _schema(listed.get("inputSchema"), "inputSchema")
    if schema.setdefault("type", "object") != "object":
        raise Malformed("the `type` of its `inputSchema` is not `object`")
    output, output_size = listed.get("outputSchema"), 0
    if isinstance(output, dict):
        output, output_size = _schema(output, "outputSchema")
    title = text_in(listed.get("title"), MAX_TITLE) or text_in(hints.get("title"), MAX_TITLE)
    tool = McpTool(
        name,
        text_in(listed.get("description"), MAX_DESCRIPTION),
        title or None,
        schema,
        output if isinstance(output, dict) else None,
        _hint(hints, "readOnlyHint"),
        _hint(hints, "destructiveHint"),
        _hint(hints, "idempotentHint"),
        _hint(hints, "openWorldHint"),
        header_arguments(schema),
    )
    return tool, size + output_size


def _hint(hints: JsonObject, name: str) -> bool | None:
    value = hints.get(name)
    return value if isinstance(value, bool) else None


def _schema(schema: Any, field: str) -> tuple[JsonObject, int]:
    """A schema without hidden characters in what people read, and its bytes. Raises Malformed."""
    if schema is None:
        return {}, 0
    if not isinstance(schema, dict):
        raise Malformed(f"its `{field}` is not an object")
    size = len(encoded(schema))
    if size > MAX_SCHEMA:
        raise Malformed(f"its `{field}` is larger than {MAX_SCHEMA >> 10} KB")
    return dict(_cleaned(schema)), size


def _cleaned(value: Any) -> Any:
    """A schema whose descriptions and titles have no hidden characters; names and values stay exact."""
    if isinstance(value, list):
        return list(map(_cleaned, value))
    if not isinstance(value, dict):
        return value
    return {
        key: text_in(each, MAX_DESCRIPTION)
        if key in ("description", "title", "$comment") and isinstance(each, str)
        else _cleaned(each)
        for key, each in value.items()
    }


def ttl_of(result: JsonObject) -> float | None:
    """For how many seconds a list is fresh; None if the server does not say."""
    milliseconds = result.get("ttlMs")
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int) or milliseconds < 0:
        return None
    return min(milliseconds, MAX_TTL * 1000.0) / 1000.0


def content_of(result: JsonObject, *, any_structure: bool) -> McpContent:
    """Read the result of a call. `any_structure`: structured content may be other than an object.

    Raises:
        Malformed: it is not a result of a call.
    """
    structured = result.get("structuredContent")
    if not any_structure and not isinstance(structured, dict):
        structured = None
    blocks = result.get("content")
    if blocks is None and "structuredContent" in result:
        blocks = []
    return McpContent(_blocks(blocks), structured, result.get("isError") is True)


def _blocks(value: Any) -> tuple[JsonObject, ...]:
    if not isinstance(value, list):
        raise Malformed("its `content` is not a list")
    if len(value) > MAX_BLOCKS:
        raise Malformed(f"it has more than {MAX_BLOCKS} content blocks")
    return tuple(map(_block, value))


def _block(value: Any) -> JsonObject:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise Malformed("one of its content blocks has no `type`")
    needed = {"text": ("text",), "image": ("data", "mimeType"), "audio": ("data", "mimeType")}
    for field in needed.get(value["type"], ()):
        if not isinstance(value.get(field), str):
            raise Malformed(f"a content block of the type {value['type']} has no `{field}`")
    if value["type"] == "resource":
        _resource(value.get("resource"))
    if value["type"] == "resource_link" and not isinstance(value.get("uri"), str):
        raise Malformed("a link to a resource has no `uri`")
    return value


def _resource(value: Any) -> JsonObject:
    if not isinstance(value, dict) or not isinstance(value.get("uri"), str):
        raise Malformed("a resource has no `uri`")
    if not isinstance(value.get("text"), str) and not isinstance(value.get("blob"), str):
        raise Malformed("a resource has neither `text` nor `blob`")
    return value


def resource_contents(result: JsonObject) -> McpContent:
    """Read the result of `resources/read`, as blocks of the type `resource`. Raises Malformed."""
    contents = result.get("contents")
    if not isinstance(contents, list) or len(contents) > MAX_BLOCKS:
        raise Malformed("its `contents` is not a list, or too long")
    return McpContent(tuple({"type": "resource", "resource": _resource(each)} for each in contents))


def resources_of(listed: Any) -> tuple[McpResource, ...]:
    """Read a page of `resources/list`, without what is not a resource. Raises Malformed."""
    if not isinstance(listed, list):
        raise Malformed("its `resources` is not a list")
    found: list[McpResource] = []
    for each in listed[:MAX_LISTED]:
        uri = each.get("uri") if isinstance(each, dict) else None
        if not isinstance(uri, str) or not 1 <= len(uri) <= MAX_URI or without_hidden(uri) != uri:
            continue
        size = each.get("size")
        found.append(
            McpResource(
                uri,
                text_in(each.get("name"), MAX_NAME) or uri[:MAX_NAME],
                text_in(each.get("title"), MAX_TITLE) or None,
                text_in(each.get("description"), MAX_DESCRIPTION),
                text_in(each.get("mimeType"), MAX_NAME) or None,
                size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
            )
        )
    return tuple(found)


def prompts_of(listed: Any) -> tuple[McpPrompt, ...]:
    """Read a page of `prompts/list`, without what is not a prompt. Raises Malformed."""
    if not isinstance(listed, list):
        raise Malformed("its `prompts` is not a list")
    found: list[McpPrompt] = []
    for each in listed[:MAX_LISTED]:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or without_hidden(name) != name:
            continue
        arguments = each.get("arguments")
        found.append(
            McpPrompt(
                name,
                text_in(each.get("title"), MAX_TITLE) or None,
                text_in(each.get("description"), MAX_DESCRIPTION),
                tuple(
                    McpPromptArgument(
                        argument["name"][:MAX_NAME],
                        text_in(argument.get("description"), MAX_DESCRIPTION),
                        argument.get("required") is True,
                    )
                    for argument in (arguments if isinstance(arguments, list) else [])[:50]
                    if isinstance(argument, dict) and isinstance(argument.get("name"), str)
                ),
            )
        )
    return tuple(found)


def prompt_messages(result: JsonObject) -> tuple[McpPromptMessage, ...]:
    """Read the result of `prompts/get`. Raises Malformed."""
    messages = result.get("messages")
    if not isinstance(messages, list) or len(messages) > MAX_BLOCKS:
        raise Malformed("its `messages` is not a list, or too long")
    found: list[McpPromptMessage] = []
    for each in messages:
        role = each.get("role") if isinstance(each, dict) else None
        if role not in ("user", "assistant"):
            raise Malformed("the role of a message is neither `user` nor `assistant`")
        found.append(McpPromptMessage(role, _block(each.get("content"))))
    return tuple(found)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _COUNT


def progress_line(params: JsonObject) -> str:
    """What a progress notification says, in one line."""
    said = " ".join(text_in(params.get("message"), _PROGRESS).split())
    done, total = params.get("progress"), params.get("total")
    if not _is_count(done):
        return said
    share = f"{done:g} of {total:g}" if _is_count(total) else f"{done:g}"
    return f"{said} ({share})" if said else share


# --- questions
# -----------------------------------------------------------------------------------------------------------


def elicitation_capability(policy: ElicitationPolicy) -> JsonObject:
    """What a client declares that passes such questions on."""
    if policy == "none":
        return {}
    return {"elicitation": {"url": {}} if policy == "url" else {"form": {}, "url": {}}}


def question_key(params: JsonObject) -> str:
    """The same key for the same question of a server of the era of sessions, which gives it no name.

    Raises:
        Malformed: it cannot be encoded.
    """
    asked = [params.get(field) for field in ("mode", "message", "requestedSchema", "url")]
    return hashlib.sha256(encoded(asked)).hexdigest()[:24]


def question(key: str, params: JsonObject, policy: ElicitationPolicy) -> McpInputRequest:
    """Read the parameters of `elicitation/create`.

    Raises:
        Malformed: it is not one that the policy passes on.
    """
    mode: Literal["form", "url"] = "url" if params.get("mode") == "url" else "form"
    if params.get("mode") not in (None, "form", "url"):
        raise Malformed(f"the mode {text_in(params.get('mode'), 40)!r} of its question is unknown")
    if policy == "none" or (mode == "form" and policy != "url_and_form"):
        raise Malformed(f"it asks for a {mode} of the user, which this server's `elicitation_policy` forbids")
    message = text_in(params.get("message"), MAX_QUESTION)
    if mode == "url":
        url = params.get("url")
        if not isinstance(url, str) or len(url) > 2048 or not _WEB.match(url) or without_hidden(url) != url:
            raise Malformed("it asks the user to visit what is not an http or https URL")
        named = params.get("elicitationId")
        return McpInputRequest(key, mode, message, url=url, elicitation_id=text_in(named, MAX_NAME) or None)
    schema = params.get("requestedSchema")
    if not isinstance(schema, dict) or len(encoded(schema)) > MAX_FORM:
        raise Malformed(f"the schema of its form is missing, or larger than {MAX_FORM >> 10} KB")
    return McpInputRequest(key, mode, message, schema=_cleaned(schema))


def input_required(result: JsonObject, policy: ElicitationPolicy) -> McpInputRequired:
    """Read a result of the type `input_required`. Raises Malformed: it asks for what is not passed on."""
    state = result.get("requestState")
    if state is not None and (not isinstance(state, str) or len(state) > MAX_STATE):
        raise Malformed(f"its `requestState` is not a text, or longer than {MAX_STATE >> 10} KB")
    asked = result.get("inputRequests")
    asked = {} if asked is None else asked
    if not isinstance(asked, dict) or len(asked) > MAX_QUESTIONS or (not asked and state is None):
        raise Malformed(f"it asks for input without questions, or asks more than {MAX_QUESTIONS}")
    questions: list[McpInputRequest] = []
    for key, each in asked.items():
        method = each.get("method") if isinstance(each, dict) else None
        params = each.get("params") if isinstance(each, dict) else None
        if method != "elicitation/create" or not isinstance(params, dict) or len(key) > MAX_NAME:
            raise Malformed(f"it asks for {text_in(method, 40) or 'input'!r}, which this client does not do")
        questions.append(question(key, params, policy))
    return McpInputRequired(tuple(questions), state)


def url_questions(data: Any, policy: ElicitationPolicy) -> McpInputRequired:
    """Read the data of the error that says that the user must visit URLs first. Raises Malformed."""
    listed = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_QUESTIONS:
        raise Malformed("it names no URL that the user must visit")
    found: list[McpInputRequest] = []
    for each in listed:
        if not isinstance(each, dict):
            raise Malformed("it names no URL that the user must visit")
        key = text_in(each.get("elicitationId"), MAX_NAME) or question_key(each)
        found.append(question(key, {**each, "mode": "url"}, policy))
    return McpInputRequired(tuple(found))
