"""`perdure images ...`: uploaded images, which messages refer to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.saving import saved_to
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.images import ImageInfo

app = typer.Typer(help="Upload images for messages, list, read and delete them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="IMAGE_ID", help="The id of an image.", show_default=False)]


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(help="A PNG, JPEG, GIF or WebP image.", show_default=False)],
    session: Annotated[
        str | None, typer.Option("--session", help="Delete it with this session.", show_default=False)
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Upload an image."""
    try:
        enter(_upload(connect(url, token, org), path, session, as_json))
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from error


async def _upload(client: Client, path: Path, session_id: str | None, as_json: bool) -> None:
    async with client:
        image = await client.upload_image(path, session_id=session_id)
    screen = Screen()
    if as_json:
        screen.json(image)
        return
    screen.line("uploaded ", (image.id, "bold"), f" ({image.content_type}, {image.size_bytes} bytes)")
    screen.line(f'Messages refer to it with {{"type": "image_file", "image_id": "{image.id}"}}.')


@app.command("list")
def list_images(
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="The most images.")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="How many to skip.")] = 0,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the organization's images, newest first."""
    enter(_list(connect(url, token, org), limit, offset, as_json))


async def _list(client: Client, limit: int, offset: int, as_json: bool) -> None:
    async with client:
        images = await client.list_images(limit=limit, offset=offset)
    Screen().listing(images, ("IMAGE", "TYPE", "PIXELS", "SIZE", "CREATED", "NAME"), _row, as_json=as_json)


def _row(image: ImageInfo) -> tuple[str, ...]:
    pixels = f"{image.metadata.get('width')} x {image.metadata.get('height')}"
    return image.id, image.content_type, pixels, f"{image.size_bytes}", image.created_at, image.filename


@app.command()
def get(
    image_id: Id,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file to write to.", show_default=False)
    ] = None,
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="Its thumbnail instead, a JPEG.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Write an image to a file, or its bytes to a pipe."""
    screen = Screen()
    if output is None and screen.is_terminal:
        raise CommandFailed("an image is not shown in a terminal: name a file with --output")
    data = enter(_get(connect(url, token, org), image_id, thumbnail))
    if output is None:
        screen.content(data)
        return
    with saved_to(output) as target:
        target.write_bytes(data)


async def _get(client: Client, image_id: str, thumbnail: bool) -> bytes:
    async with client:
        return await (client.get_thumbnail if thumbnail else client.get_image)(image_id)


@app.command()
def delete(image_id: Id, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Delete an image. Messages that have it keep it."""
    enter(_delete(connect(url, token, org), image_id))


async def _delete(client: Client, image_id: str) -> None:
    async with client:
        await client.delete_image(image_id)
    Screen().line(f"deleted {image_id}")
