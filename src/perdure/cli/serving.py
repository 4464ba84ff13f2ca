"""Run the server, if possible without the library of the command line.

That library takes 9 MB and a sixth of a second. The server would keep it for as long as it runs, so a plain
`perdure serve`, `api` or `worker` is read here. Everything else, such as help, is left to the library.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from perdure.cli.database_url import OPTION, hide_password
from perdure.cli.failures import INTERRUPTED, end_with
from perdure.cli.terminal import write_any_text

if TYPE_CHECKING:
    from perdure.domain.processes import Role

LARGEST_PORT = 65_535
ROLES: dict[str, Role] = {"serve": "all", "api": "api", "worker": "worker"}
"""Commands that run a server, with the role of the process."""
_SINGLE = ("--host", "--port", "--data", OPTION)


class ServeOptions(NamedTuple):
    """The options of `perdure serve`; None takes the setting."""

    host: str | None = None
    port: int | None = None
    data: Path | None = None
    database_url: str | None = None
    tools: tuple[Path, ...] = ()
    local_model: bool = False


def plain_options(arguments: Sequence[str]) -> ServeOptions | None:
    """Read the arguments after the command; None if only the library of the command line can judge them."""
    found: dict[str, str] = {}
    tools: list[Path] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not equals:
            value = next(rest, "")
        if not value or value.startswith("-"):
            return None
        if name == "--tools":
            tools.append(Path(value))
        elif name in _SINGLE:
            found[name] = value
        else:
            return None
    port, data = found.get("--port"), found.get("--data")
    if port is not None and not (port.isascii() and port.isdigit() and int(port) <= LARGEST_PORT):
        return None
    return ServeOptions(
        found.get("--host"),
        None if port is None else int(port),
        None if data is None else Path(data),
        found.get(OPTION),
        tuple(tools),
    )


def serve_and_exit(options: ServeOptions, command: str) -> NoReturn:
    """Run the server in place of the command."""
    write_any_text()
    try:
        hide_password(options.database_url)
        status = run(options, ROLES[command])
    except Exception as error:  # noqa: BLE001 - ends the process
        end_with(error)
    sys.exit(status)


def run(options: ServeOptions, role: Role = "all") -> int:
    """Run the server until it is stopped. Returns the exit status.

    Raises:
        PerdureError: the server cannot start.
    """
    gc.disable()  # imports make no garbage, and a collection in their midst costs a tenth of the start
    import uvloop

    from perdure.server import serve
    from perdure.settings import load

    files = ":".join(map(str, options.tools)) or None
    settings = load(
        host=options.host,
        port=options.port,
        data=options.data,
        database_url=options.database_url,
        tools=files,
    )
    try:
        if options.local_model:
            from perdure.cli.local_serve import serve_with_local_model

            uvloop.run(serve_with_local_model(settings))
        else:
            uvloop.run(serve(settings, role=role))
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
