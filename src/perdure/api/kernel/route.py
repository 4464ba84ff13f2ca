"""Routes. A handler's annotations declare the path variables, query, body and response.

    @route("PATCH", "/v1/sessions/{session_id}", "sessions", errors=(404, 412), etag=True)
    async def update_session(call: Call, session_id: SessionId, body: UpdateSession) -> Session:
        '''Update a session.

        The rest of the docstring is the description in the OpenAPI document.
        '''

The annotations are read once, when the module is loaded. A handler that does not fit its path raises
TypeError at that time, not during a request.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from types import FunctionType, NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

from msgspec import Struct

from perdure.api.kernel.body_stream import BodyStream
from perdure.api.kernel.call import Answer, Call, Chunked, Encoded, Reply, Stream
from perdure.api.kernel.variables import Variable, variable_of

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler = Callable[..., Awaitable[object]]
"""Called with the Call, the path variables in order, and the query and the body if the handler takes them."""
_WRAPPERS = (Answer, Encoded, Chunked)
Kind = object
"""A type that msgspec encodes and decodes, such as `Session` or `Listing[Session]`."""
Admit = Callable[..., None]
"""Called with the App and the path variables in order; raises what refuses the request."""


_READS = ("/_/grep", "/_/stat", "/fork", "/pin")
"""How the paths end of operations that leave a session as it is, though they are no GET."""


class Route(Struct, frozen=True, kw_only=True):
    """One operation. The first group of fields comes from the handler, the second from the decorator.

    Attributes:
        operation_id: the handler's name.
        summary: the first line of the handler's docstring, without the full stop.
        description: the rest of the docstring, as one paragraph.
        variables: the variables in the path.
        query: a struct of the query parameters; tuple fields may be repeated.
        body: the type of the JSON body; None without one.
        returns: the type of the JSON response; None without content, or if the response is not JSON.
        also: a second type that the JSON response may have: that with one of the `other` statuses, if there
            are any.

        status: the status of a successful response; by default 204 if the handler returns None, else 200.
        other: further statuses with the same response type.
        errors: error statuses in addition to those that every operation has.
        body_limit: the maximum size of the body in bytes; 0 for the general limit.
        text_limit: if not 0, the body is text, not JSON, of up to this number of bytes.
        accepts: the media types of such a body, for the document.
        takes_key: whether requests may carry an Idempotency-Key; a repeated request gets the first response
            again. True for each POST that creates something, unless its response has a secret that is shown
            only once. `replayable` overrides that: False for such a secret, or for a body that is a stream,
            which the key cannot be compared by; True if what creates something has another status than 201.
        raw_limit: if not 0, the body is of any type, of up to this number of bytes.
        stream_limit: if not 0, the handler reads the body while it arrives, of up to this number of bytes. If
            there is a `body` as well, JSON is decoded into that, unless the query has `raw`.
        public: whether the operation needs no credentials.
        anywhere: whether the operation concerns the caller and not an organization, so that a member of
            several organizations need not name one.
        command: whether the operation runs another one, which decides whether it concerns an organization.
        etag: whether responses carry an entity tag, and `If-None-Match` (GET) or `If-Match` is honoured.
        content: the media type of the response.
        example: an example of a response that is not JSON.
        admit: what is checked with the path's values before the body is read, for routes without a login.
    """

    handler: Handler
    operation_id: str
    summary: str
    description: str
    variables: tuple[Variable, ...]
    query: type[Struct] | None
    body: Kind | None
    returns: Kind | None
    also: Kind | None

    method: Method
    path: str
    tag: str
    status: int
    other: tuple[int, ...]
    errors: tuple[int, ...]
    body_example: object
    body_limit: int
    text_limit: int
    raw_limit: int
    stream_limit: int
    accepts: tuple[str, ...]
    public: bool
    anywhere: bool
    command: bool
    etag: bool
    takes_key: bool
    content: str
    example: str | None
    admit: Admit | None

    @property
    def ids(self) -> dict[str, str]:
        """The variables that must be ids, each with its prefix."""
        return {each.name: each.prefixes[0] for each in self.variables if each.prefixes and not each.named}

    @property
    def reads(self) -> bool:
        """Whether the operation changes nothing for the session in its path."""
        return self.method == "GET" or self.path.endswith(_READS)

    @property
    def rest(self) -> str:
        """The name of the variable that takes the rest of the path; empty without one."""
        return next((each.name for each in self.variables if each.rest), "")


def route(
    method: Method,
    path: str,
    tag: str,
    *,
    status: int | None = None,
    other: tuple[int, ...] = (),
    errors: tuple[int, ...] = (),
    body_example: object = None,
    body_limit: int = 0,
    stream_limit: int = 0,
    accepts: tuple[str, ...] = ("application/json", "text/plain"),
    public: bool = False,
    anywhere: bool = False,
    command: bool = False,
    etag: bool = False,
    replayable: bool | None = None,
    content: str = "application/json",
    example: str | None = None,
    admit: Admit | None = None,
) -> Callable[[Handler], Route]:
    """Make a handler a route (see `Route`). Raises TypeError if its annotations do not fit the path."""

    def build(handler: Handler) -> Route:
        summary, description = _words_of(handler)
        body = _body_type(handler, hints := inspect.get_annotations(handler, eval_str=True), stream_limit)
        returns, also = _response_types(result := hints.pop("return"), plain_first=bool(other))
        return Route(
            handler=handler,
            operation_id=handler.__name__,
            summary=summary,
            description=description,
            variables=_variables(handler, path, hints),
            query=hints.get("query"),
            body=None if body in (str, bytes) else body,
            returns=returns,
            also=also,
            method=method,
            path=path,
            tag=tag,
            status=status or (204 if result is None else 200),
            other=other,
            errors=errors,
            body_example=body_example,
            body_limit=0 if body in (str, bytes) else body_limit,
            text_limit=body_limit if body is str else 0,
            raw_limit=body_limit if body is bytes else 0,
            stream_limit=stream_limit,
            accepts=accepts,
            public=public,
            anywhere=anywhere,
            command=command,
            etag=etag,
            takes_key=method == "POST" and status == 201 if replayable is None else replayable,
            content=content,
            example=example,
            admit=admit,
        )

    return build


def _body_type(handler: Handler, hints: dict[str, Kind], stream_limit: int) -> Kind | None:
    """Return the type of the body that is not a stream. Raises TypeError: a stream needs a limit.

    Args:
        hints: from `get_annotations`: `get_type_hints` takes twice as long.
    """
    hint, streams = hints.get("body"), stream_limit > 0
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if (BodyStream in members) != streams:
        raise TypeError(f"{handler.__name__}: a `BodyStream` and `stream_limit` belong together")
    if not streams:
        return hint
    rest = [each for each in members if each is not BodyStream]
    return rest[0] if rest else None


def _words_of(handler: Handler) -> tuple[str, str]:
    """Return the handler's summary and description."""
    summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n")
    return summary.removesuffix("."), " ".join(description.split())


def _parameters_of(handler: Handler) -> tuple[str, ...]:
    """The names of the parameters, in a tenth of the time that `inspect.signature` takes."""
    if not isinstance(handler, FunctionType):
        raise TypeError(f"{handler!r} is not a function")
    code = handler.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _variables(handler: Handler, path: str, hints: dict[str, Kind]) -> tuple[Variable, ...]:
    """Return the path's variables.

    A trailing underscore in a parameter's name is ignored: `id_` is the path's `{id}`.

    Raises:
        TypeError: the handler's parameters are not those that it will be called with.
    """
    kinds = {name.removesuffix("_"): kind for name, kind in hints.items()}
    names = re.findall(r"{(\w+)}", path)
    expected = ["call", *names, *(name for name in ("query", "body") if name in kinds)]
    if [name.removesuffix("_") for name in _parameters_of(handler)] != expected:
        raise TypeError(f"{handler.__name__}, at {path}, must take ({', '.join(expected)})")
    if kinds.keys() != set(expected) or kinds["call"] is not Call:
        raise TypeError(f"{handler.__name__}: annotate every parameter; `call` is a Call")
    return tuple(variable_of(name, kinds[name]) for name in names)


def _response_types(hint: Kind, *, plain_first: bool) -> tuple[Kind | None, Kind | None]:
    """Return the JSON types that a handler returns, without their wrappers: up to two.

    `Chunked[bytes]` is not JSON.
    """
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    wrapped = [get_args(each)[0] for each in members if get_origin(each) in _WRAPPERS]
    wrapped = [each for each in dict.fromkeys(wrapped) if each is not bytes]
    plain = [
        each
        for each in members
        if get_origin(each) not in _WRAPPERS and each not in (Reply, Stream, NoneType, None)
    ]
    if len(plain) == len(members):
        return hint, None
    if len(plain) > 1 or len(wrapped) + len(plain) > 2:
        raise TypeError(f"{hint} has too many response types: at most two")
    kinds = [*plain, *wrapped] if plain_first else [*wrapped, *plain]
    return kinds[0] if kinds else None, kinds[1] if len(kinds) > 1 else None
