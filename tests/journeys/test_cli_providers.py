"""`perdure providers`, `models` and `agents`: from a new server to the first answer without curl."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.client import Client
from tests.command import PERDURE, Terminal, environment, perdure
from tests.conformance.drivers.protocols import Counts
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.server import Server
from tests.vendors import CHAT, GOOD, KEY, Guarded, answer, reply


@pytest_asyncio.fixture
async def guarded() -> AsyncIterator[Vendor]:
    async with open_vendor(Guarded()) as opened:
        yield opened


async def run(server: Server, *arguments: str, given: str = "", status: int = 0, **more: str) -> str:
    """Run the command; return its output, or what it complains about."""
    done = await perdure(*arguments, url=server.url, given=given, **more)
    assert done.status == status, (done.out, done.err)
    return done.out if status == 0 else done.out + done.err


async def test_a_provider_is_added_with_its_models_and_checked(server: Server, guarded: Vendor) -> None:
    place = ("--base-url", f"{guarded.url}/v1")
    refused = await run(server, "providers", "add", "mine", *place, "--key-stdin", given=KEY, status=1)
    assert "Incorrect API key provided: [redacted]" in refused
    assert "--no-check stores it" in refused
    added = await run(server, "providers", "add", "mine", *place, "--key-env", "MY_KEY", MY_KEY=GOOD)
    assert "(mine): the API key is valid\nmodels: one, two\n" in added
    assert "perdure models default one" in added
    assert "already" in await run(server, "providers", "add", "mine", *place, "--no-key", status=1)
    listed = (await run(server, "providers", "list")).splitlines()
    assert listed[0] == "PROVIDER\tNAME\tTYPE\tSTATUS\tKEY\tHEALTH\tURL"
    assert listed[1].split("\t")[1:5] == ["mine", "openai_completions", "active", "valid"]
    assert listed[1].split("\t")[5] == "ok"
    assert (await run(server, "providers", "check", "mine")).startswith("ok: 2 models, ")
    await run(server, "models", "default", "two")
    rows = [line.split("\t") for line in (await run(server, "models", "list")).splitlines()[1:]]
    assert [(row[1], row[2], row[3], row[5]) for row in rows] == [
        ("one", "mine", "ready", ""),
        ("two", "mine", "ready", "default"),
    ]
    one, _ = map(
        json.loads, (await run(server, "models", "list", "--provider", "mine", "--json")).splitlines()
    )
    assert one["model_id"] == "one"
    assert GOOD not in added + str(listed)


async def test_a_provider_gets_another_key_and_name_and_is_removed(server: Server, guarded: Vendor) -> None:
    place = ("--base-url", f"{guarded.url}/v1")
    await run(server, "providers", "add", "worn", *place, "--key-stdin", "--no-check", given=KEY)
    again = await run(server, "providers", "add", "worn", *place, "--no-key", status=1)
    assert "`perdure providers update worn`" in again
    refused = await run(server, "providers", "update", "worn", "--key-stdin", given=KEY, status=1)
    assert "--no-check stores it" in refused
    updated = await run(server, "providers", "update", "worn", "--key-env", "MY_KEY", MY_KEY=GOOD)
    assert updated.startswith("updated provider_")
    assert updated.endswith("(worn): the API key is valid\n")
    assert GOOD not in updated
    assert "no API key" in await run(server, "providers", "update", "worn", status=2)
    renamed = json.loads(await run(server, "providers", "update", "worn", "--name", "fresh", "--json"))
    assert (renamed["name"], renamed["base_url"]) == ("fresh", f"{guarded.url}/v1")
    assert (await run(server, "providers", "check", "fresh")).startswith("ok: ")
    keyless = json.loads(await run(server, "providers", "update", "fresh", "--no-key", "--json"))
    assert keyless["api_key_set"] is False
    assert "pass --yes" in await run(server, "providers", "remove", "fresh", status=2)
    assert "(fresh)" in await run(server, "providers", "remove", "fresh", "--yes")
    assert "no provider is called" in await run(server, "providers", "remove", "fresh", "--yes", status=1)


async def test_a_key_is_typed_without_being_shown(sqlite_server: Server, guarded: Vendor) -> None:
    arguments = ("providers", "add", "typed", "--base-url", f"{guarded.url}/v1")
    terminal = Terminal(*PERDURE, *arguments, **environment(sqlite_server.url))
    try:
        await terminal.see("API key (not shown")
        terminal.type(f"{GOOD}\n")
        await terminal.see("the API key is valid")
        assert await terminal.end() == 0
        assert GOOD not in terminal.whole
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("typed", "status", "said"), [("\x03", 130, ""), ("\x04", 2, "no API key was typed")], ids=["C-c", "C-d"]
)
async def test_the_question_for_a_key_is_left_with_one_key(
    sqlite_server: Server, typed: str, status: int, said: str
) -> None:
    arguments = ("providers", "add", "left", "--base-url", "http://127.0.0.1:1/v1")
    terminal = Terminal(*PERDURE, *arguments, **environment(sqlite_server.url))
    try:
        await terminal.see("API key (not shown")
        terminal.type(typed)
        assert await terminal.end() == status
        assert said in terminal.whole
    finally:
        terminal.close()


async def test_an_unsaved_key_is_checked(sqlite_server: Server, guarded: Vendor) -> None:
    arguments = ("providers", "check", "--type", CHAT.provider_type, "--base-url", f"{guarded.url}/v1")
    good = json.loads(await run(sqlite_server, *arguments, "--key-stdin", "--json", given=f"{GOOD}\n"))
    assert (good["ok"], good["key_status"], good["models"]) == (True, "valid", 2)
    bad = await run(sqlite_server, *arguments, "--key-env", "BAD", status=1, BAD=KEY)
    assert "API key refused\n  Incorrect API key provided: [redacted]" in bad


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["providers", "add", "openai"], "--key-env"),
        (["providers", "add", "something"], "one of openai, "),
        (["providers", "add", "openai", "--key-stdin", "--no-key"], "choose one of"),
        (["providers", "add", "openai", "--key-env", "NOT_THERE"], "NOT_THERE is not set"),
        (["providers", "add", "openai", "--key-stdin"], "standard input has no key"),
        (["providers", "check"], "either a provider or --type"),
        (["agents", "create", "helper"], "either --prompt or --prompt-file"),
        (["agents", "import"], "either files or --example"),
        (["agents", "import", "/not/there.md"], "cannot read /not/there.md"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_wrong_usage_says_what_to_do(sqlite_server: Server, arguments: list[str], said: str) -> None:
    assert said in await run(sqlite_server, *arguments, status=2)


async def test_a_provider_without_a_list_gets_its_models_by_name(
    sqlite_server: Server, vendor: Vendor
) -> None:
    vendor.will(*[reply({"detail": "Not Found"}, 404)] * 2)
    add = ("providers", "add", "plain", "--base-url", f"{vendor.url}/v1", "--no-key")
    done = await perdure(*add, url=sqlite_server.url)
    assert done.status == 0
    assert "perdure models add provider_" in done.err
    assert "(special)" in await run(sqlite_server, "models", "add", "plain", "special")
    assert "no provider is called 'none'" in await run(
        sqlite_server, "models", "add", "none", "special", status=1
    )


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


async def test_a_model_is_tested_with_one_call(sqlite_server: Server, vendor: Vendor) -> None:
    place = ("--base-url", f"{vendor.url}/v1", "--no-key")
    twice = ("--model", "gpt-test-only") * 2
    await run(sqlite_server, "providers", "add", "tested", *place, *twice)
    asked = len(vendor.asked)
    async with Client(sqlite_server.url) as client:
        before = (await client.list_sessions()).total
        vendor.will(answer("ready", counts=Counts(given=20, made=3, read=0)))
        said = await run(sqlite_server, "models", "test", "gpt-test-only")
        assert "ok: gpt-test-only (tested) answered in " in said
        assert "tokens: 20 in, 3 out\n  cost:   not known\n" in said
        assert "answered with text instead of calling the tool" in said
        assert len(vendor.asked) == asked + 1
        vendor.will(reply({"error": {"message": "this model does not support tools"}}, 400), answer("ready"))
        found = json.loads(await run(sqlite_server, "models", "test", "gpt-test-only", "--json"))
        assert (found["ok"], found["tools"], found["answer"]) == (True, "refused", "ready")
        vendor.will(reply({"error": {"message": "no such key", "code": "invalid_api_key"}}, 401))
        assert "no such key" in await run(sqlite_server, "models", "test", "gpt-test-only", status=1)
        vendor.will(Reply([b"{}"], 429, {"retry-after": "3600"}))
        limited = await run(sqlite_server, "models", "test", "gpt-test-only", status=1)
        assert "rate limit: the provider asks to wait until " in limited
        assert (await client.list_sessions()).total == before


async def test_agents_are_created_listed_exported_and_imported(sqlite_server: Server, tmp_path: Path) -> None:
    prompt, file = tmp_path / "prompt.md", tmp_path / "agent.md"
    prompt.write_text("Answer in one sentence.\n")
    create = ("agents", "create", "cli-helper", "--prompt-file", str(prompt), "--capability", "current_time")
    assert "(cli-helper)" in await run(sqlite_server, *create)
    assert "already" in await run(sqlite_server, *create, status=1)
    listed = (await run(sqlite_server, "agents", "list", "--search", "cli-helper")).splitlines()
    assert listed[1].split("\t")[1:4] == ["cli-helper", "active", "current_time"]
    exported = await run(sqlite_server, "agents", "export", "cli-helper")
    file.write_text(exported.replace("one sentence", "two sentences"))
    await run(sqlite_server, "agents", "import", str(file))
    assert "two sentences" in await run(sqlite_server, "agents", "export", "cli-helper")
    assert "imported" in await run(sqlite_server, "agents", "import", "-", given=exported)
    file.write_text("---\nname: cli-helper\nunknown: 1\n---\nHello.")
    assert f"{file}: " in await run(sqlite_server, "agents", "import", str(file), status=1)
    assert "(release-writer)" in await run(sqlite_server, "agents", "import", "--example", "release-writer")


async def test_the_types_of_provider_are_listed_with_their_keys(sqlite_server: Server) -> None:
    rows = [line.split("\t") for line in (await run(sqlite_server, "providers", "types")).splitlines()]
    assert rows[0] == ["TYPE", "KEY", "NOTES"]
    needed = {row[0]: row[1] for row in rows[1:]}
    assert needed.items() >= {"gemini": "required", "ollama": "optional", "llmsim": "none"}.items()
    notes = " ".join(row[2] for row in rows[1:])
    assert ("](" in notes, "https://console.groq.com/keys" in notes, "`--base-url`" in notes) == (
        False,
        True,
        True,
    )
    wrong = await run(sqlite_server, "providers", "add", "abacus", "--type", "abacus", status=2)
    assert "bedrock" in wrong


async def test_a_vendor_with_a_protocol_of_its_own_is_added_by_its_name(
    sqlite_server: Server, vendor: Vendor
) -> None:
    listed = reply({"models": [{"name": "models/gemini-3-pro", "displayName": "Gemini 3 Pro"}]})
    refused = reply({"error": {"code": 403, "message": "No key.", "status": "PERMISSION_DENIED"}}, 403)
    vendor.will(listed, refused, listed)  # with the key, without it, and for the models
    arguments = ("--base-url", f"{vendor.url}/v1beta", "--key-stdin")
    added = await run(sqlite_server, "providers", "add", "gemini", *arguments, given=GOOD)
    assert "the API key is valid\nmodels: gemini-3-pro\n" in added
    assert [asked.headers.get("x-goog-api-key") for asked in vendor.asked] == [GOOD, None, GOOD]


async def test_a_server_of_ones_own_needs_neither_key_nor_address(sqlite_server: Server) -> None:
    added = await run(sqlite_server, "providers", "add", "ollama", "--no-key", "--model", "llama3.2")
    assert "(ollama)\nmodels: llama3.2\n" in added
    models = (await run(sqlite_server, "models", "list", "--provider", "ollama")).splitlines()
    assert models[1].split("\t")[1:4] == ["llama3.2", "ollama", "ready"]
