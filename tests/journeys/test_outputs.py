"""Long tool outputs: the model sees the beginning and the end; a file of the session has everything."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.talk import Json, Talk, call, kinds_of, new_talk

NUMBERS = "seq 100001 130000"
"""About 210,000 characters."""
SECRET = "correct-horse-battery-staple"


async def ran(talk: Talk, name: str, **arguments: Any) -> tuple[Any, list[Json]]:
    """The result of a call, as the model sees it, and the events of its turn."""
    events = await talk.turn({"tool_calls": [call(name, **arguments)]}, {"text": "Done."})
    (done,) = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert done["success"], done
    text = done["result"][0]["text"]
    try:
        return json.loads(text), events
    except json.JSONDecodeError:
        return text, events  # a truncated object


def written(events: list[Json]) -> list[str]:
    return [event["data"]["path"] for event in events if event["type"] == "file.written"]


async def content(talk: Talk, path: str) -> str:
    answer = await talk.http.get(talk.path(f"/fs{path}"))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"])


async def test_a_long_output_is_saved_completely_to_a_file_that_the_answer_names(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    answer, events = await ran(talk, "bash", command=NUMBERS)
    (path,) = written(events)
    kinds = kinds_of(events)
    assert kinds.index("file.written") < kinds.index("tool.completed")
    shown = answer["stdout"]
    assert shown.startswith("100001\n100002\n")
    assert shown.endswith("129999\n130000\n")
    assert path in shown
    assert len(shown) < 66_000
    assert await content(talk, path) == "".join(f"{number}\n" for number in range(100_001, 130_001))
    read, _ = await ran(talk, "read_file", path=path, offset=15_000, limit=1)
    assert "115000" in json.dumps(read)


async def test_a_short_output_is_shown_completely_and_not_saved(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    answer, events = await ran(talk, "bash", command="seq 1 100")
    assert answer["stdout"] == "".join(f"{number}\n" for number in range(1, 101))
    assert written(events) == []


async def test_a_layer_can_lower_the_limit(api: httpx.AsyncClient) -> None:
    config = {"max_characters": 1_000, "head": 0.2}
    talk = await new_talk(api, capabilities=[{"ref": "output_truncation", "config": config}])
    answer, events = await ran(talk, "bash", command="seq 1 1000")
    (path,) = written(events)
    head, _, tail = answer["stdout"].partition("\n[... ")
    assert len(head) < 250 < len(tail)
    assert answer["stdout"].endswith("999\n1000\n")
    assert await content(talk, path) == "".join(f"{number}\n" for number in range(1, 1001))


async def test_reading_a_file_in_large_pieces_makes_no_copies_of_it(api: httpx.AsyncClient) -> None:
    talk = await new_talk(
        api, capabilities=[{"ref": "output_truncation", "config": {"max_characters": 1_000}}]
    )
    await ran(talk, "bash", command="seq 1 2000 > /workspace/numbers")
    _, events = await ran(talk, "read_file", path="/numbers")
    assert written(events) == []
    assert "characters left out" in json.dumps(events)


async def test_an_output_that_is_not_text_is_saved_as_json(api: httpx.AsyncClient) -> None:
    talk = await new_talk(
        api,
        capabilities=[
            {"ref": "session_sql_database"},
            {"ref": "output_truncation", "config": {"max_characters": 1_000}},
        ],
    )
    many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i FROM n"
    await ran(talk, "sql_execute", database="main", sql="CREATE TABLE t (a)")
    _, events = await ran(talk, "sql_query", database="main", sql=many)
    (path,) = written(events)
    assert path.endswith(".json")
    kept = json.loads(await content(talk, path))
    assert [row[0] if isinstance(row, list) else row["i"] for row in kept["rows"]] == list(range(1, 501))


async def test_without_files_the_rest_is_left_out_and_the_answer_says_how_much(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, harness_name="base", capabilities=[{"ref": "session_sql_database"}])
    await ran(talk, "sql_execute", database="main", sql="CREATE TABLE t (a)")
    answer, events = await ran(
        talk, "sql_query", database="main", sql="SELECT printf('%050000d', 1), printf('%050000d', 2)"
    )
    assert written(events) == []
    assert "characters left out ..." in str(answer)


async def test_the_saved_file_contains_no_secret(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    put = await api.put(talk.path("/storage/secrets"), json={"secrets": {"pass": SECRET}})
    assert put.status_code in (200, 204), put.text
    half = "correct-horse-"
    command = f"seq 100001 130000; echo {half}battery-staple; seq 100001 130000"
    _, events = await ran(talk, "bash", command=command)
    (path,) = written(events)
    kept = await content(talk, path)
    assert SECRET not in kept
    assert half not in kept
    assert kept.count("130000\n") == 2


@pytest.fixture
def environment() -> dict[str, str]:
    """A small limit for files."""
    return {"PERDURE_MAX_FILE_BYTES": "100000", "PERDURE_MAX_SESSION_FILE_BYTES": "100000"}


async def test_an_output_that_does_not_fit_into_the_workspace_is_truncated_and_the_turn_continues(
    http: httpx.AsyncClient,
) -> None:
    talk = await new_talk(http)
    answer, events = await ran(talk, "bash", command=NUMBERS)
    assert written(events) == []
    assert "characters left out ..." in answer["stdout"]
    assert kinds_of(events)[-1] == "session.idled"


async def test_an_invalid_configuration_is_refused(api: httpx.AsyncClient) -> None:
    for config in ({"max_characters": 10}, {"max_characters": 1_000_000}, {"head": 2}, {"tail": 1}):
        answer = await api.post(
            "/v1/sessions", json={"capabilities": [{"ref": "output_truncation", "config": config}]}
        )
        assert answer.status_code == 400, (config, answer.text)
