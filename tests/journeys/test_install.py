"""What a built wheel installs into an empty environment: the client alone, or the whole server."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from perdure import __version__
from perdure.cli.parts import EXTRAS
from perdure.domain.ids import is_id
from tests.server import Server
from tests.wheel import Environment, build_wheel

LIMIT = 22_000_000
"""Maximum bytes of the client with its dependencies. Much of it is the server's code in the same wheel."""

A_SESSION = """\
import asyncio
import sys
import time

began = time.perf_counter()
from perdure.client import Client, CapabilityRef, client_side_tool, tool

print(time.perf_counter() - began)


@tool
async def double(number: int) -> int:
    'Double a number.'
    return 2 * number


async def main():
    async with Client(sys.argv[1]) as client:
        provider = await client.create_provider(name="Simulated", provider_type="llmsim")
        await client.create_model(provider.id, model_id="simulated", display_name="Simulated")
        session = await client.create_session(
            title="Alone", capabilities=(CapabilityRef("session"),), tools=(client_side_tool(double),)
        )
        print(session.id)
        call = '{"tool_calls": [{"name": "double", "arguments": {"number": 21}}]}'
        text = f'Please. [[sim [{call}, {{"text": "Hello."}}]]]'
        print(await client.ask(session.id, text, tools=[double]))


asyncio.run(main())
print(*sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)))
print(*sorted(name for name in sys.modules if name.startswith("perdure.")))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


async def test_the_client_works_without_the_server_packages(
    wheel: Path, tmp_path: Path, server: Server
) -> None:
    alone = Environment(tmp_path)
    alone.install(wheel)
    assert alone.size < LIMIT
    installed = {path.name.partition("-")[0] for path in alone.packages.glob("*.dist-info")}
    assert installed >= {"perdure", "httpx", "msgspec"}
    assert installed <= {
        "perdure",
        "httpx",
        "msgspec",
        "anyio",
        "certifi",
        "h11",
        "httpcore",
        "idna",
        "sniffio",
        "typing_extensions",
    }

    done = alone.run("python", "-c", A_SESSION, server.url)
    assert done.returncode == 0, done.stderr
    seconds, session_id, answer, outside, inside = done.stdout.splitlines()
    # For the record (`pytest -rP` shows it): no test asserts a speed.
    print(f"{alone.size / 1e6:.1f} MB installed, {float(seconds):.3f} s to import")
    assert is_id(session_id, "session")
    assert answer == "Hello."
    assert {module for modules in EXTRAS.values() for module in modules} & set(outside.split()) == set()
    assert {name.split(".")[1] for name in inside.split()} == {"client", "domain"}

    for package, *command in (
        ("uvloop", "perdure", "serve"),
        ("typer", "perdure"),
        ("typer", "python", "-m", "perdure", "chat"),
    ):
        done = alone.run(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"error: this needs the package {package}, which is not installed:"
            " pip install 'perdure[server]'\n"
        )


@pytest.mark.soak
def test_the_servers_wheel_needs_only_a_registry(wheel: Path, tmp_path: Path) -> None:
    whole = Environment(tmp_path)
    whole.install(wheel, "[server]")
    assert whole.run("perdure", "--version").stdout == f"perdure {__version__}\n"
    with subprocess.Popen(
        (whole.bin / "perdure", "serve", "--port", "0", "--data", tmp_path / "data"),
        env={"PATH": str(whole.bin)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
            assert said is not None
            health = httpx.get(f"{said[1]}/health").json()
        finally:
            process.terminate()
            process.wait(30)
    assert (health["status"], health["version"], process.returncode) == ("ok", __version__, 0)

    on_postgres = ("perdure", "serve", "--database-url", "postgresql://nobody@127.0.0.1:1/nowhere")
    done = whole.run(*on_postgres)
    assert (done.returncode, done.stderr) == (
        2,
        "error: PostgreSQL needs more packages: pip install 'perdure[postgres]'\n",
    )
    whole.install(wheel, "[postgres]")
    done = whole.run(*on_postgres)
    assert done.returncode == 1
    assert "cannot connect to the database" in done.stderr
