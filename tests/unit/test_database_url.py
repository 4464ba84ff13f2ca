"""A password in --database-url does not stay on the command line."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from perdure.cli.database_url import has_password, without_option
from tests.command import environment

SECRET = "s3cret-s3cret"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"postgresql://me:{SECRET}@host/mine", True),
        (f"postgresql://me@host/mine?password={SECRET}", True),
        (f"postgresql://me@host/mine?sslpassword={SECRET}", True),
        (f"postgresql://me:{SECRET}@[::1/mine", True),
        ("postgresql://me@host/mine", False),
        ("postgresql:///mine?host=/run/postgresql", False),
    ],
)
def test_a_password_in_a_url_is_found_wherever_it_stands(url: str, expected: bool) -> None:
    assert has_password(url) is expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["perdure", "serve", "--database-url", "URL", "--port", "1"],
        ["perdure", "serve", "--database-url=URL", "--port", "1"],
        ["perdure", "serve", "--port", "1", "--database-url", "URL"],
    ],
)
def test_the_option_is_taken_from_the_arguments_with_its_value(arguments: list[str]) -> None:
    assert without_option(arguments) == ["perdure", "serve", "--port", "1"]


@pytest.mark.parametrize("form", ["two", "one"])
async def test_a_running_server_does_not_show_the_password_in_its_arguments(
    form: str, tmp_path: Path
) -> None:
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as database:
        url = f"postgresql://me:{SECRET}@127.0.0.1:{database.sockets[0].getsockname()[1]}/mine"
        option = ["--database-url", url] if form == "two" else [f"--database-url={url}"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perdure", "serve", "--data", str(tmp_path), *option),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        try:
            await asyncio.wait_for(connected.wait(), 30)  # so the URL was passed on
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"serve" in shown
            assert SECRET.encode() not in shown
        finally:
            process.kill()
            _, said = await process.communicate()
    assert b"set PERDURE_DATABASE_URL instead" in said
    assert SECRET.encode() not in said
