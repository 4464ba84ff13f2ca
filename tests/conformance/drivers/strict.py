"""The strictest known server of each protocol: what it finds wrong with a request's history.

Each rule is one that some public server enforces, though none enforces all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
IMAGE_URL = re.compile(r"https?://.+|data:image/(png|jpeg|gif|webp);base64,.+")


def complaints(provider_type: str, body: Any, *, mistral: bool = False) -> list[str]:
    """Return what the server of this protocol refuses about the history; empty if it accepts it."""
    if provider_type == "anthropic":
        return list(_messages(body))
    if provider_type == "bedrock":
        return list(_converse(body))
    if provider_type == "gemini":
        return list(_contents(body))
    return list(_responses(body) if provider_type == "openai" else _chat(body, mistral=mistral))


def unsigned(body: Any) -> list[str]:
    """Return the steps of tool calls that Gemini 3 refuses: the first call of each needs a signature."""
    steps = [
        [part for part in content["parts"] if "functionCall" in part]
        for content in body["contents"]
        if content["role"] == "model"
    ]
    return [str(calls[0]) for calls in steps if calls and not calls[0].get("thoughtSignature")]


def _names(tools: Sequence[Any]) -> Iterator[str]:
    names = [tool.get("function", tool)["name"] for tool in tools]
    yield from (f"tool name {name!r}" for name in names if not NAME.fullmatch(name))
    if len(set(names)) < len(names):
        yield "two tools with one name"


# --- Chat Completions ---------------------------------------------------------


def _chat(body: Any, *, mistral: bool) -> Iterator[str]:
    yield from _names(body.get("tools", ()))
    messages = body["messages"]
    if messages and messages[0]["role"] == "system":
        yield from _chat_content(messages[0])
        messages = messages[1:]
    if not messages or messages[0]["role"] != "user":
        yield "the conversation does not begin with a user message"
    if messages and messages[-1]["role"] == "assistant":
        yield "the conversation ends with an assistant message"
    used: set[str] = set()
    waiting: list[str] = []
    before = ""
    for message in messages:
        role = message["role"]
        yield from _chat_content(message)
        if role == "tool":
            if message["tool_call_id"] not in waiting:
                yield "a result without its call"
            else:
                waiting.remove(message["tool_call_id"])
        elif waiting:
            yield f"{role} before all results"
        if role in {"system", "developer"}:
            yield "a system message in the middle"
        if role == before and role != "tool":
            yield f"{role} after {role}"
        if mistral and role == "user" and before == "tool":
            yield "Unexpected role 'user' after role 'tool'"
        calls = message.get("tool_calls") or []
        if role == "assistant" and not calls and not message["content"]:
            yield "an assistant message needs content or tool_calls"
        for call in calls:
            yield from _chat_call(call, used, mistral=mistral)
            waiting.append(call["id"])
        before = role
    if waiting:
        yield "calls without results"


def _chat_call(call: Any, used: set[str], *, mistral: bool) -> Iterator[str]:
    identity, function = call["id"], call["function"]
    if not (SHORT_ID if mistral else re.compile(r"[!-~]{1,40}")).fullmatch(identity):
        yield f"call id {identity!r}"
    if identity in used:
        yield f"call id {identity!r} is used twice"
    used.add(identity)
    if not NAME.fullmatch(function["name"]):
        yield f"function name {function['name']!r}"
    if not isinstance(msgspec.json.decode(function["arguments"]), dict):
        yield "arguments are not an object"


def _chat_content(message: Any) -> Iterator[str]:
    content = message["content"]
    if content is None:
        if not message.get("tool_calls"):
            yield "no content"
    elif isinstance(content, str):
        if not content.strip():
            yield f"blank content of {message['role']}"
    elif message["role"] != "user" or not content:
        yield f"content parts of {message['role']}"
    else:
        if all(part["type"] == "text" for part in content):
            yield "value must be a string"
        for part in content:
            if part["type"] == "text" and not part["text"].strip():
                yield "a blank part"
            if part["type"] == "image_url" and not IMAGE_URL.fullmatch(part["image_url"]["url"]):
                yield "an image that is none"


# --- Responses ----------------------------------------------------------------


def _responses(body: Any) -> Iterator[str]:
    yield from _names(body.get("tools", ()))
    items = body["input"]
    if not items or items[-1].get("role") == "assistant" or items[-1]["type"] == "reasoning":
        yield "the input does not end with a user message or a result"
    used: set[str] = set()
    waiting: list[str] = []
    before = ""
    for item in items:
        kind = item["type"]
        if waiting and kind not in {"function_call", "function_call_output", "reasoning"}:
            yield f"{kind} before all results"
        if kind == "function_call":
            yield from _responses_call(item, used, before)
            waiting.append(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in waiting:
                yield "an output without its call"
            else:
                waiting.remove(item["call_id"])
            if not item["output"] or (isinstance(item["output"], str) and not item["output"].strip()):
                yield "an empty output"
        elif kind == "message" and not all(_has_content(part) for part in item["content"]):
            yield "blank content"
        elif kind == "message" and not item["content"]:
            yield "no content"
        if before == "reasoning" and item.get("role") == "user":
            yield "reasoning without its following item"
        before = kind
    if waiting:
        yield "calls without outputs"


def _responses_call(item: Any, used: set[str], before: str) -> Iterator[str]:
    if before == "function_call_output" and item["call_id"] in used:
        yield "a call again"
    if not NAME.fullmatch(item["call_id"]) or item["call_id"] in used:
        yield f"call id {item['call_id']!r}"
    used.add(item["call_id"])
    if not NAME.fullmatch(item["name"]):
        yield f"name {item['name']!r}"
    if not isinstance(msgspec.json.decode(item["arguments"]), dict):
        yield "arguments are not an object"


def _has_content(part: Any) -> bool:
    if part["type"] == "input_image":
        return IMAGE_URL.fullmatch(part["image_url"]) is not None
    return bool(part["text"].strip())


# --- Messages -----------------------------------------------------------------


def _messages(body: Any) -> Iterator[str]:
    yield from _names(body.get("tools", ()))
    messages = body["messages"]
    if not messages or messages[0]["role"] != "user" or messages[-1]["role"] != "user":
        yield "the conversation does not begin and end with a user message"
    used: set[str] = set()
    waiting: list[str] = []
    before = ""
    for message in messages:
        if message["role"] == before:
            yield "roles do not alternate"
        before = message["role"]
        content = message["content"]
        if not content:
            yield "no content"
        results = [block for block in content if block["type"] == "tool_result"]
        if sorted(block["tool_use_id"] for block in results) != sorted(waiting):
            yield "calls and results do not match"
        if content[: len(results)] != results:
            yield "results after other content"
        for block in content:
            yield from _block(block, used)
        waiting = [block["id"] for block in content if block["type"] == "tool_use"]
        if content and content[-1]["type"] in {"thinking", "redacted_thinking"}:
            yield "thinking at the end"
    if waiting:
        yield "calls without results"
    if used and not body.get("tools"):
        yield "tool blocks without tools"
    yield from _thinking(body)


def _block(block: Any, used: set[str]) -> Iterator[str]:
    kind = block["type"]
    if kind == "text" and not block["text"].strip():
        yield "blank text"
    if kind == "tool_use":
        if not NAME.fullmatch(block["id"]) or block["id"] in used:
            yield f"id {block['id']!r}"
        used.add(block["id"])
        if not NAME.fullmatch(block["name"]):
            yield f"name {block['name']!r}"
        if not isinstance(block["input"], dict):
            yield "input is not an object"
    if kind == "tool_result":
        inner = block.get("content", "-")
        if not inner or (isinstance(inner, str) and not inner.strip()):
            yield "a blank result"
        for part in inner if isinstance(inner, list) else []:
            yield from _block(part, used)
            if block.get("is_error") and part["type"] != "text":
                yield "all content must be text if is_error is true"
    if kind == "image" and block["source"]["type"] == "base64":
        source = block["source"]
        if not IMAGE_URL.fullmatch(f"data:{source['media_type']};base64,{source['data']}"):
            yield "an image that is none"


def _thinking(body: Any) -> Iterator[str]:
    """Until Claude 4.6, a step of a tool loop must begin with thinking if the request asks for thinking."""
    if body.get("thinking", {}).get("type") != "enabled" or len(body["messages"]) < 2:
        return
    step, last = body["messages"][-2:]
    in_loop = any(block["type"] == "tool_result" for block in last["content"])
    if in_loop and step["content"][0]["type"] not in {"thinking", "redacted_thinking"}:
        yield "Expected `thinking` or `redacted_thinking`"


# --- Gemini -------------------------------------------------------------------


def _contents(body: Any) -> Iterator[str]:
    yield from _names([each for tool in body.get("tools", ()) for each in tool["functionDeclarations"]])
    contents = body["contents"]
    if not contents or contents[0]["role"] != "user" or contents[-1]["role"] != "user":
        yield "the contents do not begin and end with the user"
    waiting: list[tuple[str, str]] = []
    used: set[str] = set()
    before = ""
    for content in contents:
        parts, role = content["parts"], content["role"]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if not parts:
            yield "no parts"
        if sorted((each["id"], each["name"]) for each in answers) != sorted(waiting):
            yield "the number of function response parts does not equal that of the function call parts"
        if answers and len(answers) < len(parts):
            yield "function responses beside other parts"
        kind = "results" if answers else role
        if kind == before:
            yield f"{kind} after {kind}"
        before = kind
        for part in parts:
            yield from _part(part, role)
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        waiting = [(each["id"], each["name"]) for each in calls]
        if used & {each["id"] for each in calls} or len({each["id"] for each in calls}) < len(calls):
            yield "an id is used twice"
        used |= {each["id"] for each in calls}
    if waiting:
        yield "calls without responses"


# --- Converse -----------------------------------------------------------------


def _converse(body: Any) -> Iterator[str]:
    tools = [each["toolSpec"] for each in body.get("toolConfig", {}).get("tools", ()) if "toolSpec" in each]
    yield from _names(tools)
    messages = body["messages"]
    if not messages or messages[0]["role"] != "user" or messages[-1]["role"] != "user":
        yield "the conversation does not begin and end with a user message"
    used: set[str] = set()
    waiting: list[str] = []
    before = ""
    for message in messages:
        if message["role"] == before:
            yield "roles do not alternate"
        before, content = message["role"], message["content"]
        if not content:
            yield "no content"
        results = [block["toolResult"] for block in content if "toolResult" in block]
        if sorted(each["toolUseId"] for each in results) != sorted(waiting):
            yield "calls and results do not match"
        for block in content:
            yield from _converse_block(block, used)
        waiting = [block["toolUse"]["toolUseId"] for block in content if "toolUse" in block]
        if content and "reasoningContent" in content[-1]:
            yield "reasoning at the end"
    if waiting:
        yield "calls without results"
    if used and not tools:
        yield "The toolConfig field must be defined when using toolUse and toolResult content blocks"


def _converse_block(block: Any, used: set[str]) -> Iterator[str]:
    if len(block) != 1:
        yield "a block must have exactly one kind of data"
    if "text" in block and not block["text"].strip():
        yield "The text field in the ContentBlock object is blank"
    if "toolUse" in block:
        use = block["toolUse"]
        if not NAME.fullmatch(use["toolUseId"]) or use["toolUseId"] in used:
            yield f"id {use['toolUseId']!r}"
        used.add(use["toolUseId"])
        if not NAME.fullmatch(use["name"]) or not isinstance(use["input"], dict):
            yield f"call {use!r}"
    for part in block.get("toolResult", {}).get("content", ()):
        yield from _converse_block(part, used)
    if "toolResult" in block and not block["toolResult"]["content"]:
        yield "an empty result"
    if "image" in block and block["image"]["format"] not in {"png", "jpeg", "gif", "webp"}:
        yield "an image that is none"


def _part(part: Any, role: str) -> Iterator[str]:
    if len(part.keys() - {"thoughtSignature", "thought"}) != 1:
        yield "a part must have exactly one kind of data"
    if "text" in part and not part["text"].strip() and not part.get("thoughtSignature"):
        yield "a blank part"
    if "functionCall" in part:
        call = part["functionCall"]
        if role != "model" or not isinstance(call["args"], dict):
            yield "a call that is none"
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", call["name"]):
            yield f"name {call['name']!r}"
    if "functionResponse" in part and not isinstance(part["functionResponse"]["response"], dict):
        yield "a response that is no object"
    if "inlineData" in part:
        data = part["inlineData"]
        if not IMAGE_URL.fullmatch(f"data:{data['mimeType']};base64,{data['data']}"):
            yield "an image that is none"
