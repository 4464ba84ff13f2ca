"""Commands: every route under a name, with all of its values in one JSON object.

`commands.txt` has the names that clients use, with the method and the path of each. A command runs the route
with that method and path here, whatever its variables are called. Routes are commands under their operation
ids as well.
"""

from __future__ import annotations

import re
from functools import cached_property
from importlib.resources import files
from typing import NoReturn
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw, Struct

from perdure.api.kernel.call import Call, Reply, Stream
from perdure.api.kernel.route import Route
from perdure.api.kernel.router import Ready
from perdure.api.kernel.variables import Variable
from perdure.domain.errors import InvalidInput, NotFound, TooLarge

CONDITIONS = frozenset((b"if-none-match", b"content-length", b"content-type"))
"""Headers that are about the command's own request and response, not about the route's."""
STREAMED = ("text/event-stream", "application/octet-stream")
"""The media types of responses that a command cannot return."""
MAX_OUTPUT = 10 * 1000 * 1000
"""The maximum size of a command's output, in bytes."""

_VARIABLE = re.compile(r"{(\w+)}")


class Asked(Struct, frozen=True):
    """What a request asks for.

    Attributes:
        path: the path, with its variables filled in.
        query: the query string.
        values: the values of the path's variables.
        body: the body; for a route that reads text, its bytes.
    """

    path: str
    query: bytes
    values: tuple[str, ...]
    body: bytes


class Known(Struct, frozen=True):
    """A command that clients know. `ready` is None if there is no such route here."""

    method: str
    path: str
    ready: Ready | None


class Commands:
    """The commands, by name. The table is read when the first one is called."""

    def __init__(self, ready: list[Ready]) -> None:
        self._ready = ready

    @cached_property
    def _known(self) -> dict[str, Known]:
        by_place = {_place(each.route.method, each.route.path): each for each in self._ready}
        known = {
            each.route.operation_id: Known(each.route.method, each.route.path, each)
            for each in self._ready
            if not each.route.command
        }
        table = files("perdure.api.kernel").joinpath("commands.txt").read_text("utf-8")
        for line in table.splitlines():
            name, method, path = line.split()
            known[name] = Known(method, path, by_place.get(_place(method, path)))
        return known

    def find(self, name: str) -> tuple[Ready, tuple[str, ...]]:
        """Return a command's route, and the names that clients give to the variables of its path.

        Raises:
            NotFound: there is no such command, or none here.
            InvalidInput: the response is a stream, or the body is not JSON or text.
        """
        known = self._known.get(name)
        if known is None:
            raise NotFound(self._unknown(name), code="unknown_command")
        if known.ready is None:
            raise NotFound(
                f"command on this server: {name!r} ({known.method} {known.path}) belongs to a feature that "
                "this release does not have",
                code="unknown_command",
            )
        route = known.ready.route
        of_any_type = route.raw_limit or (route.stream_limit and route.body is None)
        if route.content in STREAMED or of_any_type:
            why = (
                "takes a body of any type, which a command cannot have"
                if of_any_type
                else "answers with a stream, which a command cannot return"
            )
            raise InvalidInput(
                f"{name!r} {why}: use {known.method} {known.path}",
                code="command_not_supported",
                field="command",
            )
        return known.ready, tuple(_VARIABLE.findall(known.path))

    def anywhere(self, name: str) -> bool:
        """Return whether a command concerns the caller and not an organization."""
        known = self._known.get(name)
        return known is None or known.ready is None or known.ready.route.anywhere

    def _unknown(self, name: str) -> str:
        from difflib import get_close_matches  # only requests with a mistake need it

        here = [each for each, known in self._known.items() if known.ready is not None]
        close = get_close_matches(name[:60], here, 1, 0.6)
        return f"command: {name[:60]!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _place(method: str, path: str) -> str:
    return f"{method} {_VARIABLE.sub('{}', path)}"


async def refuse_command(_call: Call, name: str, _params: dict[str, Raw]) -> NoReturn:
    """Refuse a command that a command runs."""
    raise NotFound(f"command: {name[:60]!r} within a command", code="unknown_command")


def request_of(ready: Ready, names: tuple[str, ...], params: dict[str, Raw]) -> Asked:
    """Build the request that a command's parameters describe.

    Args:
        names: the names that clients give to the variables of the path.
        params: the parameters: first those of the path, the others for the query or the body.

    Raises:
        InvalidInput: a variable of the path is missing, or a value does not fit its place.
    """
    route, rest = ready.route, dict(params)
    values = tuple(
        _value(rest.pop(name, None) or rest.pop(own.name, None), name, own)
        for name, own in zip(names, route.variables, strict=True)
    )
    filled = iter(values)
    path = _VARIABLE.sub(lambda _: quote(next(filled), safe="/"), route.path)
    if ready.decoder is None:
        text = rest.pop("content", None) if route.text_limit else None
        return Asked(path, _query(rest), values, b"" if text is None else _text(text, route))
    known = set() if ready.shape is None or ready.shape.fields is None else ready.shape.fields.keys()
    asked = (
        {}
        if ready.query is None
        else {name: rest.pop(name) for name in [*rest] if name in ready.query.names and name not in known}
    )
    return Asked(path, _query(asked), values, msgspec.json.encode(rest))


def _value(raw: Raw | None, name: str, variable: Variable) -> str:
    value = None if raw is None else msgspec.json.decode(raw)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"`params.{name}` must be a text that is not empty", field=f"params.{name}")
    if "/" in value and not variable.rest and not variable.prefixes:
        raise InvalidInput(f"`params.{name}` must not contain a slash", field=f"params.{name}")
    return value


def _query(params: dict[str, Raw]) -> bytes:
    pairs: list[tuple[str, str]] = []
    for name, raw in params.items():
        match msgspec.json.decode(raw):
            case list() as items:
                pairs += [(name, _scalar(item, name)) for item in items]
            case dict() as members:
                pairs += [(f"{name}[{key}]", _scalar(item, name)) for key, item in members.items()]
            case None:
                pass
            case value:
                pairs.append((name, _scalar(value, name)))
    return urlencode(pairs).encode()


def _scalar(value: object, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float)):
        raise InvalidInput(
            f"`params.{name}` must be a text, a number or a list of them", field=f"params.{name}"
        )
    return str(value)


def _text(raw: Raw, route: Route) -> bytes:
    value = msgspec.json.decode(raw)
    if not isinstance(value, str):
        raise InvalidInput("`params.content` must be a text", field="params.content")
    body = value.encode()
    if len(body) > route.text_limit:
        raise TooLarge(f"`params.content` may have at most {route.text_limit} bytes")
    return body


def command_reply(name: str, answer: Reply | Stream) -> Reply:
    """Wrap a route's response into the response of a command.

    JSON is the output itself, text a string.

    Raises:
        TooLarge: the output is too large.
    """
    if isinstance(answer, Stream):
        raise InvalidInput(f"{name!r} answers with a stream", code="command_not_supported", field="command")
    if answer.status >= 400:
        return answer
    if len(answer.body) > MAX_OUTPUT:
        raise TooLarge(
            f"the output of {name!r} has {len(answer.body)} bytes; a command returns at most {MAX_OUTPUT}: "
            "use the route itself, or ask for less"
        )
    output = Raw(_output(answer))
    return Reply(msgspec.json.encode({"output": output}), headers=answer.headers)


def _output(answer: Reply) -> bytes:
    if not answer.body and answer.status == 204:
        return b"null"
    if answer.content_type == b"application/json":
        return answer.body
    return msgspec.json.encode(answer.body.decode("utf-8", "replace"))
