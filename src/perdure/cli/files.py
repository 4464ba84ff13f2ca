"""`perdure files ...`: the files of a session or a workspace."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client

app = typer.Typer(help="List, read and change files of a session or a workspace.", no_args_is_help=True)

Owner = Annotated[str, typer.Argument(help="The id of a session or a workspace.", show_default=False)]
Path_ = Annotated[str, typer.Argument(metavar="PATH", help="A path, such as /notes.md.", show_default=False)]
Local = Annotated[Path, typer.Argument(help="A file on this computer; `-` for standard input.")]
Target = Annotated[str, typer.Argument(help="The new path. Nothing may exist there.", show_default=False)]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="With everything in the folder.")]
STANDARD = Path("-")


@app.command("list")
def list_files(
    owner: Owner,
    path: Path_ = "/",
    recursive: Recursive = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List a folder."""
    enter(_list(connect(url, token, org), owner, path, recursive, as_json))


async def _list(client: Client, owner: str, path: str, recursive: bool, as_json: bool) -> None:
    async with client:
        found = await client.list_files(owner, path, recursive=recursive)
    Screen().listing(
        found,
        ("SIZE", "UPDATED", "PATH"),
        lambda file: (f"{file.size_bytes}", file.updated_at, file.path + "/" * file.is_directory),
        as_json=as_json,
    )


@app.command()
def get(
    owner: Owner,
    path: Path_,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file to write to.", show_default=False)
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Print a file, or save it with `--output`, once it is whole. In a pipe, its bytes are not changed."""
    if output is None:
        Screen().content(enter(_get(connect(url, token, org), owner, path)))
    else:
        direct = output.exists() and not output.is_file()  # such as /dev/null
        target = output if direct else output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
        try:
            enter(_save(connect(url, token, org), owner, path, target))
            if not direct:
                target.replace(output)
        except OSError as error:
            raise CommandFailed(f"cannot write {output}: {error.strerror}") from error
        finally:
            if not direct:
                target.unlink(missing_ok=True)


async def _get(client: Client, owner: str, path: str) -> bytes:
    async with client:
        return await client.read_file(owner, path)


async def _save(client: Client, owner: str, path: str, target: Path) -> None:
    async with client:
        with await asyncio.to_thread(target.open, "wb") as file:
            async for piece in client.download_file(owner, path):
                await asyncio.to_thread(file.write, piece)


@app.command()
def put(
    owner: Owner,
    path: Path_,
    source: Local = STANDARD,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create a file, or replace its content. A local file is read while it is sent."""
    try:
        if source == STANDARD:
            content: bytes | Path = sys.stdin.buffer.read()
        else:
            content = source if source.is_file() else source.read_bytes()  # a pipe has no size
        enter(_put(connect(url, token, org), owner, path, content))
    except OSError as error:
        raise CommandFailed(f"cannot read {source}: {error.strerror}") from error


async def _put(client: Client, owner: str, path: str, content: bytes | Path) -> None:
    async with client:
        file = await client.upload_file(owner, path, content)
    Screen().line(f"wrote {file.path}, {file.size_bytes} bytes")


@app.command()
def move(
    owner: Owner, path: Path_, target: Target, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Move a file or a folder."""
    enter(_transfer(connect(url, token, org), owner, path, target, move=True))


@app.command()
def copy(
    owner: Owner, path: Path_, target: Target, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Copy a file or a folder."""
    enter(_transfer(connect(url, token, org), owner, path, target, move=False))


async def _transfer(client: Client, owner: str, path: str, target: str, *, move: bool) -> None:
    async with client:
        file = await (client.move_file if move else client.copy_file)(owner, path, target)
    Screen().line(f"{'moved' if move else 'copied'} to {file.path}")


@app.command()
def delete(
    owner: Owner,
    path: Path_,
    recursive: Recursive = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Delete a file or a folder."""
    enter(_delete(connect(url, token, org), owner, path, recursive))


async def _delete(client: Client, owner: str, path: str, recursive: bool) -> None:
    async with client:
        deleted = await client.delete_file(owner, path, recursive=recursive)
    if not deleted:
        raise CommandFailed(f"nothing exists at {path}")
    Screen().line(f"deleted {path}")
