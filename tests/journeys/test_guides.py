"""Run every code block of the README and the guides unchanged, or list here why it is not run.

The blocks of a page run in order against a separate server, in one shell and one Python, as a reader would
paste them. `INSTEAD` lists the replacements in them; `NOT_RUN` lists the blocks that cannot run.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from perdure.client import Client
from tests.command import LIMIT, environment, script
from tests.server import Server, use_simulated_model

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/guide/{path.name}" for path in (ROOT / "docs" / "guide").glob("*.md"))]

INSTALLS = "installs; `make install` has been run, or this test could not"
SERVES = "starts the server that the other blocks use, and goes on until it is stopped"
VENDOR = "needs a vendor's key or server"
FOLLOWS = "follows for ever; tests/journeys/test_stream.py and test_cli.py follow"

NOT_RUN = {
    ("docs/guide/deploy.md", "flowchart LR"): "is a picture",
    ("docs/guide/operate.md", "scrape_configs:"): "is for a Prometheus",
    ("docs/guide/operate.md", "POST /orders"): "is a picture",
    ("docs/guide/operate.md", "perdure doctor"): "see tests/journeys/test_doctor.py",
    ("docs/guide/deploy.md", "docker build "): "needs Docker",
    ("docs/guide/deploy.md", "export PERDURE_DATABASE_URL"): "see tests/journeys/test_pgbouncer.py",
    ("docs/guide/deploy.md", "kubectl create secret "): "needs a cluster; see tests/unit/test_deploy.py",
    (
        "docs/guide/backup.md",
        "perdure backup /backups",
    ): "names a reader's own database; see tests/journeys/test_backups.py and test_transfers.py",
    (
        "docs/guide/backup.md",
        "perdure restore /backups",
    ): "names a reader's own database; see tests/journeys/test_backups.py and test_transfers.py",
    (
        "docs/guide/backup.md",
        "perdure verify --data",
    ): "names a reader's own database; see tests/journeys/test_backups.py and test_transfers.py",
    (
        "docs/guide/backup.md",
        "perdure export shop.export",
    ): "names a reader's own database; see tests/journeys/test_backups.py and test_transfers.py",
    (
        "docs/guide/questions.md",
        '{"tool_results": ',
    ): "is the body of another request; tests/journeys/test_questions.py sends it",
    (
        "docs/guide/budgets.md",
        "perdure budgets create organization 500 --soft-limit 400 --p",
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_budgets.py",
    (
        "docs/guide/budgets.md",
        "post /v1/budgets '{",
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_budgets.py",
    (
        "docs/guide/budgets.md",
        "BUDGET       STATUS  SPENT                      LEFT     OF ",
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_budgets.py",
    (
        "docs/guide/budgets.md",
        "              prompt   40,000 x $3/M  = $0.12",
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_budgets.py",
    (
        "docs/guide/budgets.md",
        'perdure budgets top-up budget_...2 5 --why "The report is wo',
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_budgets.py",
    (
        "docs/guide/budgets.md",
        "perdure budgets set budget_... --unpriced 3/15",
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_budgets.py",
    (
        "docs/guide/spend.md",
        "perdure spend                         # the last 30 days, by",
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_spend.py",
    (
        "docs/guide/spend.md",
        'curl -sS --fail-with-body "$URL/v1/spend?by=day&from_ts=2026',
    ): "needs ids of the reader's own, or shows a result; see tests/journeys/test_cli_spend.py",
    (
        "docs/guide/budgets.md",
        'budget = await client.create_budget("session", session.id, "usd", 2.0)',
    ): "needs ids of the reader's own; tests/journeys/test_budgets.py does the same",
    (
        "docs/guide/limits.md",
        "limits = await client.get_limits(org_id)",
    ): "needs ids of the reader's own; tests/journeys/test_limits.py does the same",
    (
        "docs/guide/spend.md",
        'report = await client.get_spend("agent", root_session_id=session.id)',
    ): "needs ids of the reader's own; tests/journeys/test_cli_spend.py does the same",
    ("README.md", "make demo"): "tests/journeys/test_demo.py runs it",
    ("README.md", "make test"): "runs this very test",
    ("README.md", "make install && . .venv/bin/activate"): INSTALLS,
    ("README.md", ". .venv/bin/activate\nperdure chat"): "talks until it is ended; test_local_model.py",
    ("README.md", "perdure providers add openai"): VENDOR,
    ("README.md", "curl -sN $URL/v1/sessions/$SESSION/sse"): FOLLOWS,
    ("README.md", "perdure serve --tools"): SERVES,
    ("docs/guide/tools-in-a-file.md", "perdure serve --tools"): SERVES,
    ("docs/guide/getting-started.md", "make install"): INSTALLS,
    ("docs/guide/getting-started.md", "perdure serve\n"): SERVES,
    ("docs/guide/getting-started.md", "perdure providers add openai"): VENDOR,
    ("docs/guide/getting-started.md", "OPENAI=$(post /v1/providers"): VENDOR,
    ("docs/guide/getting-started.md", "curl -sN $URL/v1/sessions/$SESSION/sse"): FOLLOWS,
    (
        "docs/guide/getting-started.md",
        "perdure keys create --name laptop",
    ): "the server has to be stopped; tests/journeys/test_cli.py",
    (
        "docs/guide/getting-started.md",
        "export PERDURE_DATABASE_URL=postgresql://",
    ): "needs a database; most journeys have one",
    ("docs/guide/models.md", "OPENAI_API_KEY=sk-... perdure serve"): VENDOR,
    ("docs/guide/models.md", "perdure providers add anthropic"): VENDOR,
    (
        "docs/guide/models.md",
        "curl -sS --fail-with-body -X POST $URL/v1/providers/$PROVIDER/sync-models",
    ): VENDOR,
    (
        "docs/guide/mcp.md",
        '{\n  "mcpServers": {\n    "Clock"',
    ): "a file of the operator; tests/unit/test_local_mcp.py",
    ("docs/guide/models.md", '{"status": "success", "created": 12'): "an answer, not a request",
    ("docs/guide/access.md", "location / {"): "configures another program",
    (
        "docs/guide/capabilities.md",
        "pip install ./examples/dice",
    ): "installs; tests/journeys/test_plugin.py uses the example",
    (
        "docs/guide/tools.md",
        "post /v1/sessions/$SESSION/tool-approvals",
    ): "needs a call that waits; tests/journeys/test_tool_approval.py has some",
    (
        "docs/guide/deferred.md",
        'curl -sS "$CALLBACK_URL"',
    ): "needs a tool that defers its result; tests/journeys/test_callbacks.py has one",
    ("docs/guide/approvals.md", '{"tool_call_id"'): "a part of a request",
    ("docs/guide/javascript.md", "const events = new EventSource"): "runs in a browser",
    ("docs/guide/javascript.md", "if (event.type === 'tool.call_requested')"): "a part of the program above",
    ("docs/guide/mcp-server.md", "claude mcp add"): "configures another program",
    (
        "docs/guide/mcp-server.md",
        '{\n  "mcpServers": {\n    "perdure": {\n      "type"',
    ): "another program's file",
    (
        "docs/guide/mcp-server.md",
        '{\n  "mcpServers": {\n    "perdure": {\n      "url"',
    ): "another program's file",
    ("docs/guide/mcp-server.md", '{\n  "inputs"'): "another program's file",
    (
        "docs/guide/webhooks.md",
        "import base64\nimport hashlib",
    ): "a receiver, which goes on until it is stopped; tests/journeys/test_webhooks.py runs it",
    (
        "docs/guide/policy-hook.md",
        "import base64\nimport hashlib",
    ): "a hook, which goes on until it is stopped; tests/journeys/test_policy_hooks.py runs it",
    (
        "docs/guide/secrets.md",
        "perdure keys rotate-master",
    ): "the server has to be stopped; tests/journeys/test_rotate_master.py",
}
"""Blocks that are not run, by page and beginning, with the reason."""

CLOCK = {"tool_calls": [{"name": "get_current_time", "arguments": {}}]}
WEATHER = {"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}
WRITE = {"tool_calls": [{"name": "write_file", "arguments": {"path": "/list.md", "content": "Milk"}}]}
FENCE_COLOUR = {
    "id": "colour",
    "type": "choice",
    "question": "Which colour?",
    "options": [{"label": "blue", "recommended": True}, {"label": "green"}],
}
FENCE = {"tool_calls": [{"name": "ask_user", "arguments": {"questions": [FENCE_COLOUR]}}]}

INSTEAD = {
    # The simulated model replaces the reader's model, and its script makes the tool call that the example
    # waits for.
    '"openai_completions", "base_url": "http://127.0.0.1:8080/v1"': '"llmsim"',
    '"openai_completions", "base_url": "\'$LOCAL\'"': '"llmsim"',
    "https://models.example.com/v1": "http://127.0.0.1:9/v1",
    "'Tell me a story'": "String.raw`" + script(CLOCK, {"text": "Once."}) + "`",
    '"Tell me a story"': json.dumps(script(CLOCK, {"text": "Once."})),
    '"Do I need an umbrella in Rome?"': json.dumps(script(WEATHER, {"text": "No."})),
    '"Write a shopping list to /list.md."': json.dumps(script(WRITE, {"text": "Written."})),
    '"Paint the fence."': json.dumps(script(FENCE, {"text": "Painted."})),
    '"Write a second list to /more.md."': json.dumps(script(WRITE, {"text": "As you wish."})),
}


class Block(NamedTuple):
    """A code block: its page, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    found = re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    return [Block(page, text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in found]


def reasons_not_to_run(block: Block) -> list[tuple[str, str]]:
    """Return the table's lines that match this block."""
    return [
        (page, begins) for page, begins in NOT_RUN if page == block.page and block.text.startswith(begins)
    ]


def to_run(page: str) -> list[Block]:
    return [block for block in blocks_of(page) if not reasons_not_to_run(block)]


def helpers() -> Block:
    """Return the helpers of Getting started, which other pages use."""
    (block,) = (each for each in blocks_of("docs/guide/getting-started.md") if "id_of() {" in each.text)
    return block


class Reader:
    """A reader who pastes a page's blocks into a shell and a Python, in an empty folder with a `.venv`."""

    def __init__(self, server: Server, shell: asyncio.subprocess.Process, client: Client) -> None:
        self._server = server
        self._shell = shell
        self._names: dict[str, Any] = {"client": client}

    async def run(self, block: Block) -> None:
        text = block.text.replace("http://127.0.0.1:9000", self._server.url)
        for said, instead in INSTEAD.items():
            text = text.replace(said, instead)
        async with asyncio.timeout(LIMIT):
            match block.language:
                case "bash":
                    await self._paste(text)
                case "javascript":
                    await self._script(text)
                case "python" if "asyncio.run(" in text or "asyncio.Runner(" in text:
                    await self._program(text)
                case "python":
                    await self._piece(text)
                case "json":
                    await self._request("/v1/sessions", "application/json", text)
                case "markdown":
                    await self._request("/v1/agents/import", "text/markdown", text)
                case language:
                    raise AssertionError(f"nobody knows how to run {language!r}: list the block in NOT_RUN")

    async def _paste(self, text: str) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{text}\necho\necho --done--\n".encode())
        out = []
        async for line in self._shell.stdout:
            if line == b"--done--\n":
                return
            out.append(line.decode())
        raise AssertionError("the shell ended: " + "".join(out))

    async def _program(self, text: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        assert out.strip()

    async def _script(self, text: str) -> None:
        node = shutil.which("node")
        if node is None:
            return  # nothing else here needs it
        process = await asyncio.create_subprocess_exec(
            *(node, "--input-type=module", "-e", text),
            env=environment(self._server.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        assert "Once." in out.decode()

    async def _piece(self, text: str) -> None:
        """Wrap a block to run as at the prompt of `python -m asyncio`."""
        waiting = eval(compile(text, "<guide>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), self._names)
        if inspect.isawaitable(waiting):
            await waiting

    async def _request(self, path: str, media: str, body: str) -> None:
        async with httpx.AsyncClient(base_url=self._server.url) as http:
            answer = await http.post(path, content=body, headers={"content-type": media})
        assert answer.status_code in (200, 201), answer.text


@asynccontextmanager
async def reader_of(server: Server, folder: Path) -> AsyncIterator[Reader]:
    (folder / ".venv").symlink_to(sys.prefix)
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        cwd=folder,
        env=environment(server.url, URL=server.url, PERDURE_TOKEN="none-yet"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with Client(server.url) as client:
            yield Reader(server, shell, client)
    finally:
        if shell.returncode is None:
            shell.kill()
        await shell.wait()


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
async def test_every_block_of_a_page_works_unchanged(page: str, server: Server, tmp_path: Path) -> None:
    text = (ROOT / page).read_text("utf-8")
    async with httpx.AsyncClient(base_url=server.url) as http:
        await use_simulated_model(http)
        # The agent of Getting started, which other pages use. That page itself creates it again.
        (
            await http.post("/v1/agents", json={"name": "helper", "system_prompt": "You help."})
        ).raise_for_status()
    async with reader_of(server, tmp_path) as reader:
        first = [helpers()] if "the helpers of [Getting started]" in text else []
        for block in first + to_run(page):
            try:
                await reader.run(block)
            except Exception as error:
                raise AssertionError(f"{block.place} does not work: {error}") from error


def all_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks_of(page)


def test_every_line_of_the_table_matches_one_block() -> None:
    meant = [key for block in all_blocks() for key in reasons_not_to_run(block)]
    assert sorted(meant) == sorted(NOT_RUN)


def test_every_fence_opens_a_block_that_is_checked() -> None:
    for page in PAGES:
        assert (ROOT / page).read_text("utf-8").count("```") == 2 * len(blocks_of(page)), page


def test_every_replaced_text_is_still_in_the_pages() -> None:
    texts = "".join(block.text for block in all_blocks())
    assert [said for said in INSTEAD if said not in texts] == []
