"""`perdure memories ...`: versioned text files that several sessions share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.files import STANDARD, Local, Recursive, advising_recursive, check_piped, nothing_piped
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.memories import Memory

app = typer.Typer(help="Memories: versioned text files that several sessions share.", no_args_is_help=True)

MemoryId = Annotated[str, typer.Argument(help="The memory's id or name.", show_default=False)]
Path_ = Annotated[
    str, typer.Argument(metavar="PATH", help="A path in the memory, such as /notes.md.", show_default=False)
]
Version = Annotated[int | None, typer.Option("--version", "-v", help="A version of the path, from 1.", min=1)]
SOME = 1_000
"""Versions of a path that are looked up: a path has no more."""


@app.command("list")
def list_memories(
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones, too.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List memories: the organization's, those of agents, and your own."""
    enter(_list(connect(url, token, org), archived, as_json))


async def _list(client: Client, archived: bool, as_json: bool) -> None:
    async with client:
        found = await client.list_memories(include_archived=archived)
    Screen().listing(
        found,
        ("ID", "NAME", "SCOPE", "STATUS", "FILES", "SIZE", "UPDATED"),
        lambda each: (
            each.id,
            each.name,
            each.scope,
            each.status,
            f"{each.file_count}",
            f"{each.size_bytes}",
            each.updated_at,
        ),
        as_json=as_json,
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The memory's name.", show_default=False)],
    description: Annotated[str | None, typer.Option(help="What it is for.", show_default=False)] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create a memory of the organization."""
    enter(_create(connect(url, token, org), name, description))


async def _create(client: Client, name: str, description: str | None) -> None:
    async with client:
        memory = await client.create_memory(name, description=description)
    Screen().line(f"created {memory.id}")


@app.command()
def show(
    memory: MemoryId,
    path: Path_ = "/",
    recursive: Recursive = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List a folder of a memory."""
    enter(_show(connect(url, token, org), memory, path, recursive, as_json))


async def _show(client: Client, memory: str, path: str, recursive: bool, as_json: bool) -> None:
    async with client:
        found = await client.list_memory_files(await _id(client, memory), path, recursive=recursive)
    Screen().listing(
        found,
        ("SIZE", "UPDATED", "PATH"),
        lambda file: (f"{file.size_bytes}", file.updated_at, file.path + "/" * file.is_directory),
        as_json=as_json,
    )


@app.command()
def get(
    memory: MemoryId,
    path: Path_,
    version: Version = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Print a file, or one of its versions."""
    Screen().content(enter(_get(connect(url, token, org), memory, path, version)))


async def _get(client: Client, memory: str, path: str, version: int | None) -> bytes:
    async with client:
        memory_id = await _id(client, memory)
        if version is None:
            return await client.download_memory_file(memory_id, path)
        found = await client.get_memory_version(
            memory_id, await _version_id(client, memory_id, path, version)
        )
    if found.content is None:
        gone = "is redacted" if found.redacted_at else "is a deletion"
        raise CommandFailed(f"version {version} of {path} {gone}: it has no content")
    return found.content.encode()


@app.command()
def put(
    memory: MemoryId,
    path: Path_,
    source: Local = None,
    expected_hash: Annotated[
        str | None,
        typer.Option(help="Fail if the file has another hash by now.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create a file, or replace its text. What it was stays as a version."""
    try:
        if source is None:
            check_piped("perdure memories put MEMORY /PATH FILE")
        local = None if source == STANDARD else source
        content = sys.stdin.buffer.read() if local is None else local.read_bytes()
        if source is None and not content:
            raise nothing_piped()
        text = content.decode()
    except OSError as error:
        raise CommandFailed(f"cannot read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{source or 'standard input'} is not text in UTF-8") from error
    enter(_put(connect(url, token, org), memory, path, text, expected_hash))


async def _put(client: Client, memory: str, path: str, text: str, expected_hash: str | None) -> None:
    async with client:
        memory_id = await _id(client, memory)
        file = await client.write_memory_file(memory_id, path, text, expected_hash=expected_hash)
    Screen().line(f"wrote {file.path}, {file.size_bytes} bytes, hash {file.content_hash}")


@app.command()
def delete(
    memory: MemoryId,
    path: Path_,
    recursive: Recursive = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Delete a file or a folder. Its versions stay."""
    enter(_delete(connect(url, token, org), memory, path, recursive))


async def _delete(client: Client, memory: str, path: str, recursive: bool) -> None:
    async with client:
        with advising_recursive():
            await client.delete_memory_file(await _id(client, memory), path, recursive=recursive)
    Screen().line(f"deleted {path}")


@app.command()
def grep(
    memory: MemoryId,
    pattern: Annotated[str, typer.Argument(help="A regular expression (RE2).", show_default=False)],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Find the files with a matching line."""
    enter(_grep(connect(url, token, org), memory, pattern, as_json))


async def _grep(client: Client, memory: str, pattern: str, as_json: bool) -> None:
    async with client:
        found = await client.grep_memory(await _id(client, memory), pattern)
    Screen().listing(found, ("SIZE", "PATH"), lambda file: (f"{file.size_bytes}", file.path), as_json=as_json)


@app.command()
def versions(
    memory: MemoryId,
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="Only those of this path.")] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List versions, newest first: who wrote what, when, and in which session."""
    enter(_versions(connect(url, token, org), memory, path, as_json))


async def _versions(client: Client, memory: str, path: str | None, as_json: bool) -> None:
    async with client:
        found = await client.list_memory_versions(await _id(client, memory), path)
    Screen().listing(
        found,
        ("VERSION", "PATH", "OPERATION", "SIZE", "WRITTEN", "BY", "SESSION"),
        lambda each: (
            f"{each.version}",
            each.path,
            "redacted" if each.redacted_at else each.operation,
            f"{each.size_bytes}",
            each.created_at,
            each.user_id or "",
            each.session_id or "",
        ),
        as_json=as_json,
    )


@app.command("diff")
def diff_versions(
    memory: MemoryId,
    path: Path_,
    version: Version = None,
    against: Annotated[
        int | None, typer.Option(help="The version to compare with.", show_default="the one before", min=1)
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show what a version changed: the newest one, unless `--version` says which."""
    enter(_diff(connect(url, token, org), memory, path, version, against, as_json))


async def _diff(
    client: Client, memory: str, path: str, version: int | None, against: int | None, as_json: bool
) -> None:
    async with client:
        memory_id = await _id(client, memory)
        other = None if against is None else await _version_id(client, memory_id, path, against)
        found = await client.diff_memory_version(
            memory_id, await _version_id(client, memory_id, path, version), against=other
        )
    screen = Screen()
    if as_json:
        screen.json(found)
        return
    before = "new in version" if found.from_version is None else f"version {found.from_version} to"
    screen.line(f"{found.path}: {before} {found.to_version}")
    colours = {"+": "green", "-": "red"}
    for line in found.lines:
        if line.skipped:
            screen.line((f"... {line.skipped} unchanged lines ...", "dim"))
        else:
            text = f"{line.sign}{line.line.rstrip(chr(10))}"
            screen.line((text, colours[line.sign]) if line.sign in colours else text)


@app.command()
def redact(
    memory: MemoryId,
    path: Path_,
    version: Annotated[
        int,
        typer.Option("--version", "-v", help="The version of the path, from 1.", min=1, show_default=False),
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Remove the content of a version for good. Its hash stays."""
    enter(_redact(connect(url, token, org), memory, path, version))


async def _redact(client: Client, memory: str, path: str, version: int) -> None:
    async with client:
        memory_id = await _id(client, memory)
        await client.redact_memory_version(memory_id, await _version_id(client, memory_id, path, version))
    Screen().line(f"redacted version {version} of {path}")


@app.command()
def archive(memory: MemoryId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Archive a memory: read-only, and in no session's files. `restore` brings it back."""
    enter(_remove(connect(url, token, org), memory, purge=False))


@app.command()
def restore(memory: MemoryId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Bring an archived memory back."""
    enter(_restore(connect(url, token, org), memory))


async def _restore(client: Client, memory: str) -> None:
    async with client:
        await client.update_memory(await _id(client, memory, archived=True), status="active")
    Screen().line(f"restored {memory}")


@app.command()
def purge(memory: MemoryId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Remove an archived memory for good, with all versions."""
    enter(_remove(connect(url, token, org), memory, purge=True))


async def _remove(client: Client, memory: str, *, purge: bool) -> None:
    async with client:
        memory_id = await _id(client, memory, archived=purge)
        await client.delete_memory(memory_id, purge=purge)
    Screen().line(f"{'removed' if purge else 'archived'} {memory}")


async def _id(client: Client, memory: str, *, archived: bool = False) -> str:
    """The id of a memory that is given by its id or its name."""
    if memory.startswith("memory_"):
        return memory
    found: list[Memory] = [
        each
        for each in await client.list_memories(memory, include_archived=archived)
        if each.name == memory and (not archived or each.status == "archived")
    ]
    if len(found) == 1:
        return found[0].id
    few = f"{len(found)} memories are" if found else "no memory is"
    raise CommandFailed(f"{few} named {memory!r}: give an id of `perdure memories list`")


async def _version_id(client: Client, memory_id: str, path: str, version: int | None) -> str:
    """The id of a version of a path; of the newest one, if none is given."""
    found = await client.list_memory_versions(memory_id, path, limit=1 if version is None else SOME)
    for each in found:
        if version is None or each.version == version:
            return each.id
    raise CommandFailed(f"there is no version {version or ''} of {path}".replace("  ", " "))
