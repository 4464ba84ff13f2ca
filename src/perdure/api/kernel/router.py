"""Finds the route for a path."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import msgspec
from msgspec import Struct

from perdure.api.kernel.audits import audited
from perdure.api.kernel.decoding import QueryDecoder
from perdure.api.kernel.route import Route
from perdure.api.kernel.unknown_fields import Shape, shape_of


class Ready:
    """A route with what is computed once: decoders and the checks of path variables."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.handler = route.handler
        self.audited = audited(route.operation_id)
        """What the audit log has of it; None if it has nothing."""
        self.checks = tuple(each.check for each in route.variables)
        self.rest = any(each.rest for each in route.variables)
        names = [each.name for each in route.variables]
        self.session_at = names.index("session_id") if "session_id" in names else None
        owners = [at for at, name in enumerate(names) if name in ("session_id", "workspace_id")]
        self.of_session = next(iter(owners), None)
        """Where the path has a session, or a workspace that may be a session's."""
        self.decoder = None if route.body is None else msgspec.json.Decoder(cast("type[object]", route.body))
        self.query: QueryDecoder[Struct] | None = None if route.query is None else QueryDecoder(route.query)

    @cached_property
    def has_warnings(self) -> bool:
        """Whether the response has a field `warnings` of its own."""
        fields: tuple[str, ...] = getattr(self.route.returns, "__struct_fields__", ())
        return "warnings" in fields and not self.route.command

    @cached_property
    def shape(self) -> Shape | None:
        """The shape of the body, from the first request on: an idle server does not hold it."""
        return None if self.route.body is None else shape_of(self.route.body)


class _Node:
    __slots__ = ("fixed", "rest", "routes", "variable")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.rest: _Node | None = None
        self.routes: dict[str, Ready] = {}


class Router:
    """A tree of path segments.

    A fixed segment takes precedence over a variable, and a variable over one that takes the rest of the path.
    """

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._root = _Node()
        self.ready: list[Ready] = []
        for route in routes:
            node = self._root
            for segment in route.path.strip("/").split("/"):
                if route.rest and segment == f"{{{route.rest}}}":
                    if node.rest is None:
                        node.rest = _Node()
                    node = node.rest
                elif segment.startswith("{"):
                    if node.variable is None:
                        node.variable = _Node()
                    node = node.variable
                else:
                    node = node.fixed.setdefault(segment, _Node())
            node.routes[route.method] = Ready(route)
            self.ready.append(node.routes[route.method])

    def find(self, path: str) -> tuple[dict[str, Ready], list[str]] | None:
        """Return the routes at a path, by method, and the values of its variables; None without a route."""
        values: list[str] = []
        node = self._find(self._root, path.strip("/").split("/"), 0, values)
        return None if node is None or not node.routes else (node.routes, values)

    def _find(self, node: _Node, segments: list[str], index: int, values: list[str]) -> _Node | None:
        if index == len(segments):
            return node
        fixed = node.fixed.get(segments[index])
        if fixed is not None:
            deeper = self._find(fixed, segments, index + 1, values)
            if deeper is not None and deeper.routes:
                return deeper
        if node.variable is not None and segments[index]:
            values.append(segments[index])
            deeper = self._find(node.variable, segments, index + 1, values)
            if deeper is not None and deeper.routes:
                return deeper
            values.pop()
        if node.rest is not None:
            values.append("/".join(segments[index:]))
            return node.rest
        return None
