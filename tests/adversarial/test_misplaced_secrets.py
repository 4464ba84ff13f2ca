"""Secrets in arguments that no tool keeps secret: of a misspelt tool, or in the wrong place."""

from __future__ import annotations

from typing import Any

import httpx

from tests.adversarial.attack import turn
from tests.talk import call, new_talk

SECRET = 'hunter2-Zebra "quagga" é'
TRACES = ("hunter2", "ebra", "quagga")
ALL = [{"ref": ref} for ref in ("session_storage", "session_file_system", "stateless_todo_list")]

MISPLACED: tuple[tuple[str, Any], ...] = (
    ("secret_store", {"operation": "set", "key": "A", "val": SECRET}),
    ("secret_store", {"operation": "set", "key": SECRET}),
    ("secret_store", {"operation": "set", "key": "A=hunter2-quagga", "value": "x"}),
    ("secret_store", {"operation": "set", "key": "hunter2"}),
    ("secret_store", {"operation": SECRET, "key": "A"}),
    ("secret_store", {"operation": "set hunter2-quagga", "key": "A", "value": "good"}),
    ("secret_store", {"operation": "store", "key": "hunter2-Zebra"}),
    ("secret_store", {"operation": "set", "key": {"name": SECRET}, "value": [SECRET]}),
    ("secret_store", [SECRET]),
    ("secrets_store", {"operation": "set", "key": "A", "value": SECRET}),
    ("secretstore", {"key": SECRET}),
    ("store_secret", {"name": "A", "secret": SECRET}),
    ("SecretStore", {"a": {"b": [SECRET]}}),
    ("save", {"operation": "set", "key": "A", "value": SECRET}),
    ("set_api_key", {"x": SECRET}),
    ("login", {"password": SECRET}),
    ("functions.secret_store", {"operation": "set", "key": "A", "value": SECRET}),
    ("secert_stroe", {"operation": "set", "key": "A", "text": SECRET}),
    ("write_todos", {"operation": "set", "key": "A", "value": SECRET}),
)


async def test_a_secret_in_the_wrong_place_is_not_logged(each: httpx.AsyncClient) -> None:
    for name, arguments in MISPLACED:
        talk = await new_talk(each, capabilities=ALL)  # a secret that is known would hide in the next call
        await turn(talk, {"tool_calls": [{"name": name, "arguments": arguments}]}, {"text": "Done."})
        events = (await each.get(talk.path("/events?limit=1000"))).text
        exported = (await each.get(talk.path("/export"))).text
        assert not any(trace in events + exported for trace in TRACES), (name, arguments)


async def test_arguments_of_other_tools_stay_readable(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each, capabilities=ALL)
    calls = [
        call("kv_store", operation="set", key="color", value="maroon-paint"),
        call("search", query="zebras-in-kenya"),
        call("write_file", path="/a.txt", text="misnamed-argument"),
        call("secret_store", operation="set", key="GITHUB_TOKEN", value="sesame-open-4711"),
        call("secret_store", operation="get", key="GITHUB_TOKEN"),
    ]
    await turn(talk, {"tool_calls": calls}, {"text": "Done."})
    shown = (await each.get(talk.path("/events?limit=1000"))).text
    assert "sesame-open" not in shown
    for text in (
        "maroon-paint",
        "zebras-in-kenya",
        "misnamed-argument",
        '"GITHUB_TOKEN"',
        "[secret GITHUB_TOKEN]",
    ):
        assert text in shown, text
