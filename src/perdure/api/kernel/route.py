"""A route is its handler: path parameters, query, body and answer are the handler's annotations.

    @route("PATCH", "/v1/sessions/{session_id}", "sessions", errors=(404, 412), etag=True)
    async def update_session(call: Call, session_id: SessionId, body: UpdateSession) -> Session:
        '''Change a session.

        What the OpenAPI document says about it.
        '''

The annotations are read once, when the module is loaded. A handler that does not fit its path is a TypeError
there, and not an error of some request.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from perdure.api.kernel.call import Answer, Call, Encoded, Reply, Stream
from perdure.api.kernel.variables import Variable, variable_of

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler = Callable[..., Awaitable[object]]
"""Called with the call, the path's variables in their order, the query if it takes one, the body if it takes
one."""
Kind = object
"""A type that msgspec reads and writes, such as `Session` or `Listing[Session]`."""


class Route(Struct, frozen=True, kw_only=True):
    """One operation. The fields of the first group are read off the handler.

    Attributes:
        operation_id: the handler's name.
        summary: the first line of the handler's docstring, without the full stop.
        description: the rest of the docstring, as one paragraph.
        variables: the parameters in the path.
        query: a struct of the query parameters; tuple fields may be repeated.
        body: the type of a JSON body.
        returns: the type of the answer; None for no content, and for an answer that is not JSON.
        also: another type that the answer may have.

        status: of a successful answer.
        other: further statuses with the same answer.
        errors: statuses of errors beside those that every operation has.
        body_limit: bytes of the body; where it is 0, as many as for any other operation.
        text_limit: where it is not 0, the body is text of up to so many bytes instead of JSON.
        takes_key: requests may carry an Idempotency-Key: they get the first answer again. Whatever is made
            with a POST, but not where the answer is a secret that is shown once.
        public: needs no credentials.
        anywhere: it is about the caller and not about an organization, so one who belongs to several need not
            choose.
        etag: answers carry an entity tag, and `If-None-Match` or `If-Match` are honoured.
        content: the media type of the answer.
        example: of an answer that is not JSON.
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
    public: bool
    anywhere: bool
    etag: bool
    takes_key: bool
    content: str
    example: str | None

    @property
    def ids(self) -> dict[str, str]:
        """The variables that must be an id, with its prefix."""
        return {each.name: each.prefixes[0] for each in self.variables if each.prefixes and not each.named}

    @property
    def rest(self) -> str:
        """The variable that takes the rest of the path; empty where there is none."""
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
    public: bool = False,
    anywhere: bool = False,
    etag: bool = False,
    replayable: bool = True,
    content: str = "application/json",
    example: str | None = None,
) -> Callable[[Handler], Route]:
    """Make a handler a route. The attributes of `Route` say what the arguments mean.

    Args:
        status: if left out, 204 where the handler returns None, and 200 elsewhere.
        replayable: False where the answer is a secret that is shown once.
    """

    def build(handler: Handler) -> Route:
        hints = get_type_hints(handler)
        summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n")
        body: Kind | None = hints.get("body")
        answer = hints.pop("return")
        kinds = _answers(answer)
        return Route(
            handler=handler,
            operation_id=handler.__name__,
            summary=summary.removesuffix("."),
            description=" ".join(description.split()),
            variables=_variables(handler, path, hints),
            query=hints.get("query"),
            body=None if body is str else body,
            returns=kinds[0] if kinds else None,
            also=kinds[1] if len(kinds) > 1 else None,
            method=method,
            path=path,
            tag=tag,
            status=status or (204 if answer is NoneType else 200),
            other=other,
            errors=errors,
            body_example=body_example,
            body_limit=0 if body is str else body_limit,
            text_limit=body_limit if body is str else 0,
            public=public,
            anywhere=anywhere,
            etag=etag,
            takes_key=replayable and method == "POST" and status == 201,
            content=content,
            example=example,
        )

    return build


def _variables(handler: Handler, path: str, hints: dict[str, Kind]) -> tuple[Variable, ...]:
    """The path's variables.

    An underscore at the end of a parameter's name does not count: `id_` is the path's `{id}`.

    Raises:
        TypeError: the handler's parameters are not what it will be called with.
    """
    kinds = {name.removesuffix("_"): kind for name, kind in hints.items()}
    names = re.findall(r"{(\w+)}", path)
    expected = ["call", *names, *(name for name in ("query", "body") if name in kinds)]
    if [name.removesuffix("_") for name in inspect.signature(handler).parameters] != expected:
        raise TypeError(f"{handler.__name__}, at {path}, must take ({', '.join(expected)})")
    if kinds.keys() != set(expected) or kinds["call"] is not Call:
        raise TypeError(f"{handler.__name__}: annotate every parameter; `call` is a Call")
    return tuple(variable_of(name, kinds[name]) for name in names)


def _answers(hint: Kind) -> list[Kind]:
    """The JSON types that a handler may answer with, each of which it may give as an Answer or Encoded."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    wrapped = [get_args(each)[0] for each in members if get_origin(each) in (Answer, Encoded)]
    plain = [
        each
        for each in members
        if get_origin(each) not in (Answer, Encoded) and each not in (Reply, Stream, NoneType, None)
    ]
    if len(plain) == len(members):
        return [hint]
    if len(plain) > 1 or len(wrapped) + len(plain) > 2:
        raise TypeError(f"{hint} has too many types of answers")
    return [*wrapped, *plain]
