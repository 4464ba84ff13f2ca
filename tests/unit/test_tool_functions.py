"""Tools from async functions: schemas from type hints, descriptions from docstrings."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict

import jsonschema_rs
import msgspec
import pytest

from perdure.capabilities.tool_context import Context
from perdure.domain.docstrings import read_docstring
from perdure.domain.errors import PerdureError
from perdure.domain.hint_schemas import schema_of_hint
from perdure.domain.hint_values import UnsupportedHint
from perdure.domain.tool_functions import InvalidToolFunction, read_signature, tool
from perdure.domain.tools import APPROVE


class Colour(enum.Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Item:
    """An item.

    Attributes:
        sku: The code
            on the label.
    """

    sku: str
    tags: list[str] = field(default_factory=list)


class Address(msgspec.Struct):
    street: Annotated[str, msgspec.Meta(description="With the number.")]
    kind: Literal["home", "work"] = "home"


class Box(TypedDict):
    items: list[Item]
    label: NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: int = 0


@dataclass
class Node:
    following: Node | None = None


@dataclass(frozen=True)
class Frozen:
    number: int


@dataclass
class Callback:
    run: asyncio.Event


Own = Annotated[int, msgspec.Meta(extra_json_schema={"$ref": "#/$defs/missing"})]
DEEP: Any = functools.reduce(lambda inner, _: list[inner], range(400), int)  # type: ignore[valid-type]

DEEPER: Any = functools.reduce(lambda inner, _: [inner], range(100_000), 1)

Customer = NewType("Customer", int)

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
FROZEN = {"type": "object", "properties": {"number": WHOLE}, "required": ["number"]}
ITEM = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "description": "The code on the label."},
        "tags": {"type": "array", "items": TEXT},
    },
    "required": ["sku"],
    "description": "An item.",
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, TEXT),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (int | None, {"anyOf": [WHOLE, {"type": "null"}]}),
        (int | str, {"anyOf": [WHOLE, TEXT]}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (Literal[True, False], {"type": "boolean", "enum": [False, True]}),
        (Literal[1, True], {"enum": [True, 1]}),
        (frozenset[Frozen], {"type": "array", "items": FROZEN, "uniqueItems": True}),
        (dict[Level, int], {"type": "object", "additionalProperties": WHOLE}),
        (Colour, {"type": "string", "enum": ["blue", "red"], "description": "What it looks like."}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (Customer, WHOLE),
        (list[int], {"type": "array", "items": WHOLE}),
        (dict[str, int], {"type": "object", "additionalProperties": WHOLE}),
        (tuple[int, ...], {"type": "array", "items": WHOLE}),
        (dt.date, {"type": "string", "format": "date"}),
        (Annotated[int, msgspec.Meta(ge=1, le=9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (Item, ITEM),
        (
            Address,
            {
                "type": "object",
                "properties": {
                    "street": {"type": "string", "description": "With the number."},
                    "kind": {"type": "string", "enum": ["home", "work"], "default": "home"},
                },
                "required": ["street"],
            },
        ),
        (
            Box,
            {
                "type": "object",
                "properties": {"items": {"type": "array", "items": ITEM}, "label": TEXT},
                "required": ["items"],
            },
        ),
        (
            Pair,
            {"type": "array", "prefixItems": [WHOLE, WHOLE | {"default": 0}], "minItems": 1, "maxItems": 2},
        ),
    ],
    ids=str,
)
def test_a_type_has_its_schema_without_references(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of_hint(hint) == schema
    jsonschema_rs.meta.validate(schema)


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (object, "is not supported (<class 'object'>). Supported are str, int"),
        (Callback, "is not supported (<class 'asyncio.locks.Event'>)"),
        (Node, "contains itself (Node)"),
        (list[int] | tuple[int, ...], "is not supported: Type unions may not contain more than one array"),
        (Item | Node, "is not supported: Type unions may not contain more than one dataclass"),
        (TypedDict("Odd", {"größe": int}), "has a field 'größe'"),
        (Own, "has a schema of its own with `$ref`, which is not possible: 'missing'"),
        (DEEP, "is nested too deeply"),
        (msgspec.Raw, "is not supported (msgspec.Raw): use Any"),
        (dict[tuple[int, int], str], "has a dict with keys that are not possible in JSON"),
        (list[dict[bool | None, str]], "has a dict with keys that are not possible in JSON"),
        (set[Item], "has a set of values that are not hashable"),
        (Box | set[tuple[list[int], int]] | None, "has a set of values that are not hashable"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_type_without_a_schema_is_refused_with_the_reason(hint: Any, reason: str) -> None:
    with pytest.raises(UnsupportedHint) as caught:
        schema_of_hint(hint)
    assert str(caught.value).startswith(reason)


def test_a_type_that_grows_without_bound_is_refused() -> None:
    kind: Any = msgspec.defstruct("S0", [("x", int)])
    for level in range(1, 30):
        kind = msgspec.defstruct(f"S{level}", [("a", kind), ("b", kind)])
    with pytest.raises(UnsupportedHint, match="over 1000 parts"):
        schema_of_hint(kind)


@tool
async def order(
    ctx,
    first: int,
    /,
    item: Item,
    colour: Colour = Colour.RED,
    note: str = None,  # noqa: RUF013 (people write this)
    *,
    sizes: Annotated[list[int], "In centimetres."] = [],  # noqa: B006 (it is not changed)
    address: Annotated[Address | None, msgspec.Meta(description="Where to.")] = None,
):
    """Order something.

    It arrives soon.

    Args:
        ctx: The context.
        first (int, optional): The first one: it
            has a long text.

            And a paragraph.
        item: What.

    Returns:
        A number.
    """
    return first, item, colour, note, sizes, address


def test_a_docstring_is_divided_into_a_description_and_texts_for_the_parameters() -> None:
    doc = read_docstring(order.__doc__ or "")
    assert doc.description == "Order something.\n\nIt arrives soon.\n\nReturns:\n    A number."
    assert doc.texts() == {
        "ctx": "The context.",
        "first": "The first one: it has a long text.\nAnd a paragraph.",
        "item": "What.",
    }
    odd = read_docstring("Do it.\n\nArgs:\n    a: x\n    bad\n    b: y\n  worse")
    assert odd.misplaced == ((4, "bad"), (6, "worse"))
    assert odd.texts() == {"a": "x", "b": "y"}


def test_a_signature_becomes_a_schema_and_its_arguments_become_python_values() -> None:
    signature = read_signature(order)
    properties = signature.parameters["properties"]
    assert properties["first"] == WHOLE | {
        "description": "The first one: it has a long text.\nAnd a paragraph."
    }
    assert properties["item"] == ITEM | {"description": "What."}
    assert properties["colour"]["default"] == "red"
    assert properties["note"] == {"anyOf": [TEXT, {"type": "null"}]}
    assert properties["sizes"] == {
        "type": "array",
        "items": WHOLE,
        "description": "In centimetres.",
        "default": [],
    }
    assert properties["address"]["description"] == "Where to."
    assert signature.parameters["required"] == ["first", "item"]
    assert (signature.takes_context, signature.positional) == (True, ("first",))

    given = {"first": 2.0, "item": {"sku": "x"}, "colour": "blue", "sizes": [1.0], "note": None}
    positional, named = signature.convert(given)
    assert positional == [2]
    assert named == {"item": Item("x"), "colour": Colour.BLUE, "sizes": [1], "note": None}
    assert asyncio.run(order(None, *positional, **named)) == (2, Item("x"), Colour.BLUE, None, [1], None)
    with pytest.raises(PerdureError, match=r"Expected `int`, got `str` - at `\$.first`") as caught:
        signature.convert({"first": "2", "item": {"sku": "x"}})
    assert caught.value.code == "invalid_arguments"


def problems(function: Any) -> list[str]:
    with pytest.raises(InvalidToolFunction) as caught:
        read_signature(function)
    return [problem.text for problem in caught.value.problems]


def test_all_mistakes_of_a_function_are_found_at_once() -> None:
    async def check(ctx: Any, zzz: str) -> Any: ...

    @tool(  # type: ignore[call-overload]
        name="no way", timeout=-1, approval="yes", read_only=True, destructive=True, verify=check
    )
    def wrong(a, *args: int, ctx: Any, b: Unknown, größe: int, **more: int) -> None:  # noqa: F821
        """
        Args:
            b: fine
            b: again
            zzz: unknown
        """

    begins = (
        "has a name that model vendors refuse", "has `approval='yes'`", "cannot be both", "has `timeout=-1`",
        "is not `async def`", "has no docstring", "describes `b` twice", "describes `zzz`, which is not",
        "has a parameter `a` without a type hint", "takes `*args`", "takes `ctx`, which must be its first",
        "has a parameter `b` whose type hint cannot be read: NameError", "has a parameter `größe`",
        "takes `**more`", "has a `verify` that takes `zzz`: it may take ctx, a, args, ctx, b",
    )  # fmt: skip
    found = problems(wrong)
    assert [text for text, begin in zip(found, begins, strict=True) if not text.startswith(begin)] == []


def test_a_text_that_json_cannot_express_is_found_before_it_fails_every_turn() -> None:
    async def look(number: int = 1) -> None: ...

    async def example(number: Annotated[int, msgspec.Meta(examples=[object()])]) -> None:
        """Look."""

    look.__doc__ = "Half \ud800."
    assert "cannot express: 'utf-8' codec can't encode" in problems(tool(look))[0]
    look.__doc__ = "Whole."
    assert "cannot express" in problems(tool(display_name="\ud800")(look))[0]
    assert "cannot express: Encoding objects of type object" in problems(tool(example))[0]


def test_values_of_the_author_are_shown_even_if_they_cannot_be() -> None:
    class Unreadable:
        def __repr__(self) -> str:
            raise ValueError

    @tool(approval=Unreadable())  # type: ignore[call-overload]
    async def look(ctx: Any, items: set[Any], deep: Any = DEEPER) -> None:
        """Look."""

    assert problems(look) == ["has `approval=<Unreadable>`: it must be True or False"]
    with pytest.raises(TypeError, match="not on <Unreadable>"):
        tool(Unreadable())  # type: ignore[call-overload]
    signature = read_signature(tool(look.function))
    assert signature.parameters["properties"]["deep"] == {}
    with pytest.raises(PerdureError, match="unhashable") as caught:
        signature.convert({"items": [[1]]})
    assert caught.value.code == "invalid_arguments"


def test_the_context_is_passed_by_position() -> None:
    @tool
    async def look(*, ctx: Any) -> None:
        """Look."""

    assert problems(look) == ["takes `ctx`, which must be its first parameter, without a `*` before it"]


def test_what_is_no_async_function_is_refused_where_it_stands() -> None:
    for value in (5, Item, functools.partial(print), order):
        with pytest.raises(TypeError, match="directly above `async def`"):
            tool(value)  # type: ignore[call-overload]
    with pytest.raises(
        TypeError, match=r"no option `readonly`: its options are name, display_name, approval"
    ):
        tool(readonly=True)  # type: ignore[call-overload]

    @tool
    async def stream(number: int):
        """Yield."""
        yield number

    assert problems(stream)[0].startswith("yields values")


def test_a_tool_has_one_name_that_is_its_own_and_a_display_name_that_fits() -> None:
    async def look() -> None:
        """Look."""

    assert problems(tool(name=APPROVE)(look)) == [
        f"is named {APPROVE!r}, which stands for requests for approval"
    ]
    assert problems(tool(display_name="")(look)) == [
        "has a `display_name` that is not a text of 1 to 200 characters"
    ]
    with pytest.raises(TypeError, match=r"write `@tool\(name='look'\)`"):
        tool("look")  # type: ignore[call-overload]


def test_a_verify_and_a_docstring_that_cannot_serve_are_refused() -> None:
    def check() -> None: ...

    @tool(verify=check)  # type: ignore[arg-type]
    async def look(place: str) -> None:
        """Look.

        Args:
          place: where
         somewhere
        """

    found = problems(look)
    assert "has a `verify` that is not an `async def`" in found
    assert any(text.startswith("has a line under `Args:` that is neither") for text in found)
    look.function.__doc__ = "x" * 8_001
    assert "has a docstring of 8001 characters, and may have 8000" in problems(look)


def test_a_default_is_told_to_the_model_if_it_has_the_type_of_its_parameter() -> None:
    @tool
    async def wrong(number: int = "one") -> None:  # type: ignore[assignment]
        """Look."""

    assert problems(wrong)[0].startswith(
        "has a parameter `number` whose default 'one' does not have its type"
    )

    @tool
    async def look(number: int = 3, name: str = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        """Look."""

    properties = read_signature(look).parameters["properties"]
    assert properties["number"] == {**WHOLE, "default": 3}
    assert properties["name"] == {"anyOf": [TEXT, {"type": "null"}]}


def test_types_that_no_value_can_be_converted_to_are_refused_at_their_parameter() -> None:
    @tool
    async def look(where: Context, callback: Callback, other: Callback = None) -> None:  # type: ignore[assignment]
        """Look."""

    first, *rest = problems(look)
    assert first == "takes the context as `where`: its first parameter must be named `ctx`"
    assert [text.partition(" whose type")[0] for text in rest] == [
        "has a parameter `callback`",
        "has a parameter `other`",
    ]


def test_parameters_before_a_slash_are_passed_by_position_and_whole_floats_are_integers() -> None:
    @tool
    async def look(place: str, times: int = 2, /, *, depth: list[int]) -> None:
        """Look."""

    signature = read_signature(look)
    assert signature.convert({"place": "here", "depth": [3.0]}) == (["here", 2], {"depth": [3]})
