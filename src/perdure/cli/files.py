"""`perdure files ...`: the files of a session or a workspace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.saving import saved_to
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client

app = typer.Typer(help="List, read and change files of a session or a workspace.", no_args_is_help=True)

Owner = Annotated[str, typer.Argument(help="The id of a session or a workspace.", show_default=False)]
Path_ = Annotated[str, typer.Argument(metavar="PATH", help="A path, such as /notes.md.", show_default=False)]
Local = Annotated[
    Path | None,
    typer.Argument(
        help="A file on this computer; `-` for standard input.", show_default="what is piped to the command"
    ),
]
Target = Annotated[str, typer.Argument(help="The new path. Nothing may exist there.", show_default=False)]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="With everything in the folder.")]
STANDARD = Path("-")
PIECE = 256 * 1024
"""Bytes of standard input, or of a pipe, that are read at a time."""


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
        with saved_to(output) as target:
            enter(_save(connect(url, token, org), owner, path, target))


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
    source: Local = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create a file, or replace its content. A file or a pipe is read while it is sent."""
    try:
        if source is None:
            check_piped("perdure files put OWNER /PATH FILE")
            given = _some(_pieces_from(sys.stdin.fileno()))
            enter(_put(connect(url, token, org), owner, path, given))
        elif source == STANDARD:
            enter(_put(connect(url, token, org), owner, path, _pieces_from(sys.stdin.fileno())))
        elif source.is_file():
            enter(_put(connect(url, token, org), owner, path, source))
        else:
            with source.open("rb", buffering=0) as pipe:
                enter(_put(connect(url, token, org), owner, path, _pieces_from(pipe.fileno())))
    except OSError as error:
        raise CommandFailed(f"cannot read {source}: {error.strerror}") from error


def check_piped(usage: str) -> None:
    """Check that something can be piped to the command. Raises CommandFailed."""
    if sys.stdin.isatty():
        raise CommandFailed(f"name a local file: `{usage}`, or `-` to type the content")


def nothing_piped() -> CommandFailed:
    """The error without a local file and without input: a forgotten name must not empty a file."""
    return CommandFailed("standard input is empty: name a local file, or `-` for an empty file")


async def _some(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, of which there must be one. Raises CommandFailed before the request begins."""
    first = await anext(pieces, b"")
    if not first:
        raise nothing_piped()
    yield first
    async for piece in pieces:
        yield piece


async def _pieces_from(number: int) -> AsyncIterator[bytes]:
    """Read from a file descriptor that may make us wait, piece by piece."""
    loop = asyncio.get_running_loop()
    while True:
        piece = loop.create_future()

        def read(piece: asyncio.Future[bytes] = piece) -> None:
            result: bytes | OSError
            try:
                result = os.read(number, PIECE)
            except OSError as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the command has ended meanwhile
                loop.call_soon_threadsafe(_settle, piece, result)

        # Not of a pool, whose threads have to end before the command can.
        threading.Thread(target=read, daemon=True).start()
        data = await piece
        if not data:
            return
        yield data


def _settle(piece: asyncio.Future[bytes], result: bytes | OSError) -> None:
    if piece.done():
        return
    if isinstance(result, OSError):
        piece.set_exception(result)
    else:
        piece.set_result(result)


async def _put(client: Client, owner: str, path: str, content: Path | AsyncIterator[bytes]) -> None:
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


@contextlib.contextmanager
def advising_recursive() -> Iterator[None]:
    """Name the command's option where the server's error names the parameter of a route."""
    from perdure.client import Conflict

    try:
        yield
    except Conflict as error:
        if error.code != "folder_not_empty":
            raise
        before, found, _ = error.message.partition(": set `recursive`")
        raise CommandFailed(f"{before}: `--recursive` deletes it" if found else error.message) from None


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
        with advising_recursive():
            deleted = await client.delete_file(owner, path, recursive=recursive)
    if not deleted:
        raise CommandFailed(f"nothing exists at {path}")
    Screen().line(f"deleted {path}")
