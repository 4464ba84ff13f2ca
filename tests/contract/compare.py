"""Compares two OpenAPI documents: what would a client of the first miss at a server of the second?"""

from __future__ import annotations

import re
from typing import Any

from tests.contract.shapes import Shape, Shapes

Document = dict[str, Any]
Check = tuple[str, str]
"""The element of the document, and what is checked."""

REQUEST, RESPONSE = "request", "response"


class Comparison:
    """The checks of some operations.

    Attributes:
        checks: by check, whether our document matches the contract. What is checked: `route` and `operation`
            (exists, with this operation id), `parameter` and `field` (exists), `type`, `values` (of an
            enumeration), `null` (whether null is allowed), `presence` (of a field: requests require it only
            if the contract does; responses always have it if the contract says so).
    """

    def __init__(self, contract: Document, ours: Document) -> None:
        self._contract, self._ours = contract, ours
        self._theirs_shapes, self._ours_shapes = (
            Shapes(contract["schemas"]),
            Shapes(ours["components"]["schemas"]),
        )
        self._seen: set[tuple[Any, ...]] = set()
        self.checks: dict[Check, bool] = {}

    def operation(self, method: str, path: str, theirs: dict[str, Any]) -> None:
        """Compare one operation of the contract with ours."""
        where = f"{method.upper()} {path}"
        ours = self._ours["paths"].get(path, {}).get(method)
        if not self._note(where, "route", good=ours is not None):
            return
        if theirs["operationId"] is not None:
            self._note(where, "operation", good=ours["operationId"] == theirs["operationId"])
        self._parameters(where, theirs, ours)
        if "requestBody" in theirs:
            self._bodies(
                f"{where} body",
                theirs["requestBody"]["content"],
                ours.get("requestBody", {}).get("content", {}),
                REQUEST,
            )
        for status, content in theirs["responses"].items():
            answer = ours["responses"].get(status)
            if self._note(f"{where} {status}", "answer", good=answer is not None):
                self._bodies(f"{where} {status}", content, answer.get("content", {}), RESPONSE)

    def _note(self, where: str, what: str, *, good: bool) -> bool:
        where = _plain(where)
        self.checks[where, what] = self.checks.get((where, what), True) and good
        return good

    def _parameters(self, where: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        known = self._ours["components"]["parameters"]
        parameters = [
            known[each["$ref"].rsplit("/", 1)[1]] if "$ref" in each else each
            for each in ours.get("parameters", ())
        ]
        by_name = {(each["in"], each["name"].lower()): each for each in parameters}
        for each in theirs.get("parameters", ()):
            spot = f"{where} {'?' if each['in'] == 'query' else ''}{each['name']}"
            found = by_name.pop((each["in"], each["name"].lower()), None)
            if self._note(spot, "parameter", good=found is not None):
                assert found is not None
                self._note(spot, "presence", good=each["required"] or not found["required"])
                # Queries have no null, and a single value is a list with one item.
                self._schemas(spot, _listed(each["schema"]), _listed(found["schema"]), REQUEST)
        for (_, name), each in by_name.items():
            if each["required"]:
                self._note(f"{where} {name}", "presence", good=False)

    def _bodies(self, where: str, theirs: dict[str, Any], ours: dict[str, Any], side: str) -> None:
        for kind, schema in theirs.items():
            if self._note(
                where if kind == "application/json" else f"{where} {kind}", "content", good=kind in ours
            ):
                self._schemas(where, schema, ours[kind]["schema"], side)

    def _schemas(self, where: str, theirs: Any, ours: Any, side: str) -> None:
        left, right = self._theirs_shapes.of(theirs), self._ours_shapes.of(ours)
        sent, taken = (left, right) if side == REQUEST else (right, left)
        # What one side sends, the other must accept: clients send requests, the server sends responses.
        if {"null"} & _kinds(sent):
            self._note(where, "null", good=bool({"null", "any"} & _kinds(taken)))
        open_end = "any" in _kinds(taken)
        fits = all(any(_takes(one.kind, each.kind) for one in taken) for each in sent if each.kind != "null")
        self._note(where, "type", good=open_end or fits)
        values, allowed = _values(sent), _values(taken)
        if allowed is not None and not open_end:
            self._note(where, "values", good=values is not None and values <= allowed)
        for each in left:
            self._shape(where, each, right, side)

    def _shape(self, where: str, theirs: Shape, ours: list[Shape], side: str) -> None:
        if theirs.kind == "array":
            for found in [each for each in ours if each.kind == "array"][:1]:
                self._schemas(f"{where}[]", theirs.items, found.items, side)
        if theirs.kind != "object":
            return
        candidates = [each for each in ours if each.kind == "object"]
        found = _counterpart(theirs, candidates)
        element = theirs.name or where
        if found is None:
            if candidates:
                self._note(element, "form", good=False)
            return
        key = (element, found.name or id(found.fields), side)
        if key in self._seen:
            return
        self._seen.add(key)
        for name, schema in theirs.fields.items():
            self._field(f"{element}.{name}", name, schema, (theirs, found), side)
        extra = found.required - theirs.fields.keys()
        if side == REQUEST:
            for name in extra:
                self._note(f"{element}.{name}", "presence", good=False)
        if theirs.rest not in (None, False) and found.rest is not None:
            self._schemas(f"{element}.*", theirs.rest, found.rest, side)

    def _field(self, where: str, name: str, schema: Any, both: tuple[Shape, Shape], side: str) -> None:
        theirs, ours = both
        if not self._note(where, "field", good=name in ours.fields or ours.rest not in (None, False)):
            return
        contract_requires, we_require = name in theirs.required, name in ours.required
        self._note(
            where,
            "presence",
            good=(contract_requires or not we_require)
            if side == REQUEST
            else (we_require or not contract_requires),
        )
        if name in ours.fields:
            self._schemas(where, schema, ours.fields[name], side)


def _listed(schema: Any) -> Any:
    """The schema of a single value of a parameter."""
    if isinstance(schema, dict) and isinstance(schema.get("type"), list):
        schema = {**schema, "type": [each for each in schema["type"] if each != "null"]}
    if isinstance(schema, dict):
        for key in ("oneOf", "anyOf"):
            if key in schema:
                schema = {key: [_listed(each) for each in schema[key] if each != {"type": "null"}]}
        if schema.get("type") in ("array", ["array"]):
            return schema["items"]
    return schema


def _plain(element: str) -> str:
    """The name of an element without its list or wrapper, so that each definition is checked once."""
    element = re.sub(r"^(?:List|Paginated)Response_(\w+)\.data\[\]", r"\1", element)
    element = re.sub(r"^PaginatedResponse_\w+", "PaginatedResponse", element)
    return re.sub(r"^(WithUrls_|ResourceWithCounts_)+(?=[A-Z])", "", element)


def _kinds(shapes: list[Shape]) -> set[str]:
    return {each.kind for each in shapes}


def _takes(taker: str, kind: str) -> bool:
    return taker in ("any", kind) or (taker, kind) == ("number", "integer")


def _values(shapes: list[Shape]) -> frozenset[Any] | None:
    """All values, or None if they are not enumerated."""
    found: frozenset[Any] = frozenset()
    for each in shapes:
        if each.kind == "null":
            continue
        if each.values is None:
            return None
        found |= each.values
    return found or None


def _counterpart(theirs: Shape, ours: list[Shape]) -> Shape | None:
    """Our shape that corresponds to one of theirs: by its tag, by its name, or because it is the only one."""
    if theirs.tag is not None and any(each.tag is not None for each in ours):
        return next((each for each in ours if each.tag == theirs.tag), None)
    named = next((each for each in ours if each.name and each.name == theirs.name), None)
    return named or (ours[0] if len(ours) == 1 else None)
