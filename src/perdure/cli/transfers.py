"""Exports and imports of sessions and organizations: without the server, on its database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from perdure.cli.common import Data, DatabaseUrl, Json, enter, read_text
from perdure.cli.keep import shown_progress
from perdure.cli.terminal import Screen

SecretsKey = Annotated[
    Path | None,
    typer.Option(
        "--secrets-key",
        help="A file with a key of 32 bytes, as base64 or hex, that secrets are sealed under in the export.",
        show_default="secrets are left out",
    ),
]


def _key(path: Path | None) -> bytes | None:
    from perdure.store.master_key import parse_master_key

    return None if path is None else parse_master_key(read_text(path, "--secrets-key"))


def export(
    file: Annotated[Path, typer.Argument(help="The file to write. It must not exist.", show_default=False)],
    session: Annotated[
        str | None, typer.Option(help="A session, with its sub-agents.", show_default="an organization")
    ] = None,
    organization: Annotated[
        str | None, typer.Option(help="The organization to export.", show_default="the first")
    ] = None,
    secrets_key: SecretsKey = None,
    as_json: Json = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Export an organization, or one session, for another database. Servers may keep running."""
    from perdure.domain.ids import OrgId, SessionId
    from perdure.settings import load
    from perdure.transfers import export_to

    settings, key = load(data=data, database_url=database_url), _key(secrets_key)
    with shown_progress() as show:
        header, count = enter(
            export_to(
                settings,
                file,
                show,
                session_id=None if session is None else SessionId(session),
                org_id=None if organization is None else OrgId(organization),
                key=key,
            )
        )
    screen = Screen()
    if as_json:
        screen.json({"sessions": count, "header": header})
        return
    without = "" if header.secrets else " Secrets are left out."
    screen.line((str(file), "bold"), f": {count:,} sessions, {file.stat().st_size:,} bytes.{without}")


def import_(
    file: Annotated[Path, typer.Argument(help="The export.", show_default=False)],
    organization: Annotated[
        str | None,
        typer.Option(help="The organization that gets it.", show_default="as it was"),
    ] = None,
    on_conflict: Annotated[
        str,
        typer.Option(help="If a session is there already: skip it, or copy it under a new id."),
    ] = "skip",
    secrets_key: SecretsKey = None,
    as_json: Json = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Import an export. It can be repeated, also after it was interrupted. Stop a server on SQLite first."""
    from perdure.domain.ids import OrgId
    from perdure.domain.transfers import OnConflict
    from perdure.settings import load
    from perdure.transfers import import_from

    if on_conflict not in get_args(OnConflict):
        raise typer.BadParameter(f"{on_conflict!r} is neither skip nor copy", param_hint="--on-conflict")
    settings, key = load(data=data, database_url=database_url), _key(secrets_key)
    with shown_progress() as show:
        done = enter(
            import_from(
                settings,
                file,
                show,
                org_id=None if organization is None else OrgId(organization),
                on_conflict=cast("OnConflict", on_conflict),
                key=key,
            )
        )
    screen = Screen()
    if as_json:
        screen.json(done)
        return
    copied = f", {done.copied:,} as copies" if done.copied else ""
    screen.line(
        f"Imported {done.sessions:,} sessions{copied}; {done.present:,} were there already. They are in ",
        (done.org_id, "bold"),
        ".",
    )
