"""`perdure spend`: what was spent, with bars, and as CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from perdure.client import Client
from tests.command import perdure, use_simulated_model
from tests.server import Server
from tests.talk import script


async def test_the_command_shows_and_exports_what_was_spent(server: Server, tmp_path: Path) -> None:
    url = server.url
    assert (await perdure("spend", url=url)).out == "No model calls in this time.\n"
    async with Client(url) as client:
        await use_simulated_model(client)
        session = await client.create_session()
        for text in ("one", "two"):
            await client.ask(session.id, script({"text": text, "usage": {"input_tokens": 1000}}))
        other = await client.create_session()
        await client.ask(other.id, "Hello.")
        calls = await client.list_model_calls(session_id=session.id)
        assert [call.input_tokens for call in calls] == [1000, 1000]
        await client.delete_session(session.id)
        report = await client.get_spend("session")
    assert {group.key: group.calls for group in report.groups} == {session.id: 2, other.id: 1}
    assert report.total.unpriced_calls == 3
    done = await perdure("spend", "--by", "session", url=url)
    header, *rows = [line.split("\t") for line in done.out.splitlines()]
    assert header == ["session", "cost", "", "calls", "input", "output", "cached"]
    shown = {row[0]: (row[1], row[3], row[4]) for row in rows}
    assert shown[session.id] == ("$0.00 + 2 unpriced", "2", "2,000")
    assert (rows[-1][0], rows[-1][3]) == ("total", "3")
    longest = max(rows[:-1], key=lambda row: len(row[2]))
    assert (longest[0], longest[2]) == (session.id, "█" * 24)
    only = await perdure("spend", "--session", other.id, "--json", url=url)
    assert json.loads(only.out)["total"]["calls"] == 1
    target = tmp_path / "calls.csv"
    done = await perdure("spend", "--csv", str(target), url=url)
    assert done.out == f"3 calls: {target}\n"
    lines = list(csv.DictReader(target.read_text().splitlines()))
    assert [line["session_id"] for line in lines].count(session.id) == 2
    printed = await perdure("spend", "--csv", "-", url=url)
    assert printed.out.splitlines() == target.read_text().splitlines()
    refused = await perdure("spend", "--days", "0", url=url)
    assert refused.status == 2
