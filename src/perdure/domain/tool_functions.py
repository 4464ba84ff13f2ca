"""Tools as Python functions: `@tool`, and what a function's signature and docstring say about its tool."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, overload

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.domain.docstrings import Docstring, read_docstring
from perdure.domain.effects import Verified
from perdure.domain.errors import PerdureError
from perdure.domain.hint_schemas import FIELD_NAME, schema_of_hint
from perdure.domain.hint_values import UnsupportedHint
from perdure.domain.messages import JsonObject
from perdure.domain.tools import APPROVE

P = ParamSpec("P")
R = TypeVar("R")

CONTEXT = "ctx"
"""The name of the first parameter if it receives the call's context; no other parameter may have it."""

MAX_TIMEOUT = 86_400.0
"""Seconds that a tool may run. A tool that waits longer returns `Later`."""
MAX_DESCRIPTION = 8_000
"""Characters of a tool's description, as of those that clients define."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
"""The function names that all model vendors accept."""


class ToolOptions(Struct, frozen=True, kw_only=True):
    """The arguments of `@tool`; `tool` explains them."""

    name: str | None = None
    display_name: str | None = None
    approval: bool = False
    read_only: bool = False
    idempotent: bool = False
    destructive: bool = False
    timeout: float | None = None
    verify: Callable[..., Coroutine[Any, Any, Verified]] | None = None
    resumable: bool = False
    deferred: bool = False
    background: bool = False


class ToolFunction(Generic[P, R]):
    """An async function that is a tool. Call it like the function itself."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]], options: ToolOptions) -> None:
        if not inspect.isfunction(function):
            raise TypeError(f"@tool goes directly above `async def`, not on {shown(function, 80)}")
        functools.update_wrapper(self, function)
        self.function: Callable[P, Coroutine[Any, Any, R]] = function
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.function.__name__ if self.options.name is None else self.options.name


@overload
def tool(function: Callable[P, Coroutine[Any, Any, R]], /) -> ToolFunction[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    display_name: str | None = None,
    approval: bool = False,
    read_only: bool = False,
    idempotent: bool = False,
    destructive: bool = False,
    timeout: float | None = None,
    verify: Callable[..., Coroutine[Any, Any, Verified]] | None = None,
    resumable: bool = False,
    deferred: bool = False,
    background: bool = False,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], ToolFunction[P, R]]: ...


def tool(function: Any = None, /, **options: Any) -> Any:
    """Make an async function a tool: `@tool`, or `@tool(approval=True)`.

    The schema comes from the type hints, the descriptions from the docstring. Mistakes in them are reported
    when the server loads the file.

    Args:
        function: the function below `@tool`.
        options: `name` is the name for models, by default the function's own. `display_name` is the name for
            people. `approval`: each call waits until a person approves it. `read_only`: the tool changes
            nothing, so a call may run again after a crash. `idempotent`: running a call twice has the same
            effect as once, so it may run again. `destructive`: the tool may delete or overwrite something;
            `tool_approval` asks about such tools. `timeout`: seconds, 60 by default. `verify`: an async
            function that finds out, by `ctx.effect_key`, whether an interrupted call took effect; of the
            tool's arguments, it takes those that it names. `resumable`: all effects of the tool are in its
            steps (`ctx.step`), so that it may continue after a crash. `deferred`: the model is not offered
            the tool before it has found it with `tool_search`. `background`: the model may have it run
            beside the turn, where `background_tools` is active.
    """
    if isinstance(function, str):
        raise TypeError(f"@tool takes options only: write `@tool(name={function[:64]!r})`")
    known = ToolOptions.__struct_fields__
    if unknown := [each for each in options if each not in known]:
        raise TypeError(f"@tool has no option `{unknown[0]}`: its options are {', '.join(known)}")
    made = ToolOptions(**options)
    return functools.partial(ToolFunction, options=made) if function is None else ToolFunction(function, made)


class Problem(Struct, frozen=True):
    """A mistake in a tool function.

    Attributes:
        parameter: the parameter that it is about, if there is one.
        doc_line: the line of the docstring that it is about, counted from 0 without blank lines at its
            beginning.
    """

    text: str
    parameter: str | None = None
    doc_line: int | None = None


class InvalidToolFunction(Exception):
    """The function cannot be a tool."""

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(f"{name}: " + "; ".join(problem.text for problem in problems))
        self.problems = problems


class Signature(Struct, frozen=True):
    """What a tool function's signature and docstring say.

    Attributes:
        parameters: the JSON Schema of its arguments.
        takes_context: whether its first parameter is `ctx`.
        arguments: a struct of its arguments; those without a value in a call are UNSET.
        positional: the names of its arguments that are passed by position.
    """

    name: str
    description: str
    parameters: JsonObject
    takes_context: bool
    arguments: type[Struct]
    positional: tuple[str, ...] = ()

    def convert(self, arguments: JsonObject) -> tuple[list[Any], dict[str, Any]]:
        """Convert a call's arguments to the annotated types: by position, and by name.

        Raises:
            PerdureError: `invalid_arguments`; the message is for the model.
        """
        try:
            values = self._values(arguments)
        except (msgspec.ValidationError, RecursionError, TypeError) as error:  # not hashable, for a set
            raise PerdureError(f"Invalid arguments. {error}", code="invalid_arguments") from error
        given = {
            name: value
            for name in self.arguments.__struct_fields__
            if (value := getattr(values, name)) is not UNSET
        }
        return [given.pop(name) for name in self.positional], given

    def _values(self, arguments: JsonObject) -> Struct:
        try:
            return msgspec.convert(arguments, self.arguments, str_keys=True)
        except msgspec.ValidationError:
            # In JSON, and to the schema, 3.0 is the integer 3.
            return msgspec.convert(_with_integers(arguments), self.arguments, str_keys=True)


def _with_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_integers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_integers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_signature(function: ToolFunction[..., Any]) -> Signature:
    """Read a tool function's signature and docstring. Raises InvalidToolFunction: it has mistakes."""
    reader = _Reader(function)
    signature = reader.read()
    if reader.problems:
        raise InvalidToolFunction(function.name, tuple(reader.problems))
    return signature


class _Reader:
    """Reads one function, and collects all of its mistakes."""

    def __init__(self, function: ToolFunction[..., Any]) -> None:
        self.problems: list[Problem] = []
        self._tool = function
        self._function = function.function

    def read(self) -> Signature:
        self.problems += map(Problem, _mistaken_options(self._tool))
        if inspect.isasyncgenfunction(self._function):
            self._report("yields values: a tool returns one result; use `ctx.progress` to show progress")
        elif not inspect.iscoroutinefunction(self._function):
            self._report(
                "is not `async def`; blocking work goes into a thread, with `await asyncio.to_thread(...)`"
            )
        doc = read_docstring(self._function.__doc__ or "")
        parameters = list(inspect.signature(self._function).parameters.values())
        takes_context = bool(parameters) and _is_context(parameters[0])
        own = parameters[1:] if takes_context else parameters
        self._check_docstring(doc, [each.name for each in own])
        texts = doc.texts()
        hints = {each.name: hint for each in own if (hint := self._hint_of(each)) is not None}
        properties = {
            each.name: self._property(each, hints[each.name], texts.get(each.name))
            for each in own
            if each.name in hints
        }
        schema: JsonObject = {"type": "object", "properties": properties}
        schema["required"] = [each.name for each in own if each.default is each.empty]
        schema["additionalProperties"] = False
        positional = tuple(each.name for each in own if each.kind is each.POSITIONAL_ONLY)
        self._check_verify([each.name for each in own])
        self._check_texts(doc, schema)
        arguments = Struct if self.problems else self._struct(own, hints, positional)
        return Signature(self._tool.name, doc.description, schema, takes_context, arguments, positional)

    def _report(self, text: str, parameter: str | None = None, doc_line: int | None = None) -> None:
        self.problems.append(Problem(text, parameter, doc_line))

    def _check_verify(self, names: list[str]) -> None:
        """Check the function that finds out whether a call took effect."""
        verify: Any = self._tool.options.verify
        if verify is None:
            return
        if not inspect.iscoroutinefunction(verify):
            self._report("has a `verify` that is not an `async def`")
            return
        for each in inspect.signature(verify).parameters.values():
            if each.name not in (CONTEXT, *names) or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                known = ", ".join((CONTEXT, *names))
                self._report(f"has a `verify` that takes `{each.name}`: it may take {known}")
                return

    def _check_texts(self, doc: Docstring, schema: JsonObject) -> None:
        """Check that all that models and people read is JSON; otherwise every turn with the tool fails."""
        try:
            msgspec.json.encode((doc.description, self._tool.options.display_name, schema))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._report(f"has a description or a schema that JSON cannot express: {error}")

    def _check_docstring(self, doc: Docstring, names: list[str]) -> None:
        if not doc.description:
            self._report("has no docstring that says what it does: the model decides by it when to call it")
        elif len(doc.description) > MAX_DESCRIPTION:
            self._report(
                f"has a docstring of {len(doc.description)} characters, and may have {MAX_DESCRIPTION}"
            )
        for line, text in doc.misplaced:
            self._report(
                f"has a line under `Args:` that is neither `name: description` nor indented further than "
                f"one: {text[:60]!r}",
                doc_line=line,
            )
        seen: set[str] = set()
        for entry in doc.entries:
            if entry.name not in (*names, CONTEXT):
                known = ", ".join(names) or "none"
                self._report(
                    f"describes `{entry.name}`, which is not one of its parameters ({known})",
                    doc_line=entry.line,
                )
            elif entry.name in seen:
                self._report(f"describes `{entry.name}` twice", doc_line=entry.line)
            seen.add(entry.name)

    def _hint_of(self, parameter: inspect.Parameter) -> Any:
        """The type of a parameter; None if it has a mistake."""
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            self._report(f"takes `{stars}{name}`: give each argument a name and a type", name)
            return None
        if name == CONTEXT:
            self._report("takes `ctx`, which must be its first parameter, without a `*` before it", name)
            return None
        if not FIELD_NAME.fullmatch(name):
            self._report(f"has a parameter `{name}`, whose name model vendors refuse: use a-z and _", name)
            return None
        if parameter.annotation is parameter.empty:
            self._report(
                f"has a parameter `{name}` without a type hint: write for example `{name}: str`", name
            )
            return None
        try:
            hint = _resolved(self._function, parameter.annotation)
        except Exception as error:  # noqa: BLE001 (an annotation is an expression: it may fail in any way)
            self._report(
                f"has a parameter `{name}` whose type hint cannot be read: {type(error).__name__}: {error}",
                name,
            )
            return None
        if (getattr(hint, "__name__", ""), getattr(hint, "__module__", "")[:8]) == ("Context", "perdure."):
            self._report(f"takes the context as `{name}`: its first parameter must be named `ctx`", name)
            return None
        return hint | None if parameter.default is None and not _accepts_none(hint) else hint

    def _property(self, parameter: inspect.Parameter, hint: Any, text: str | None) -> JsonObject:
        try:
            schema = schema_of_hint(hint)
        except UnsupportedHint as error:
            self._report(f"has a parameter `{parameter.name}` whose type {error}", parameter.name)
            return {}
        text = text or next(_annotations(hint), None)
        if text is not None:
            schema["description"] = text
        if parameter.default is not parameter.empty and parameter.default is not None:
            self._add_default(schema, parameter, hint)
        return schema

    def _add_default(self, schema: JsonObject, parameter: inspect.Parameter, hint: Any) -> None:
        """Tell the model the default, which must be a value of the parameter's type."""
        try:
            encoded = msgspec.json.encode(parameter.default)
            schema["default"] = msgspec.json.decode(encoded)
            msgspec.json.decode(encoded, type=hint)
        except msgspec.ValidationError as error:
            self._report(
                f"has a parameter `{parameter.name}` whose default {shown(parameter.default, 80)} does not "
                f"have its type: {error}",
                parameter.name,
            )
        except (TypeError, ValueError, OverflowError, RecursionError):
            schema.pop("default", None)  # what only Python can express is left out

    def _struct(
        self, parameters: list[inspect.Parameter], hints: dict[str, Any], positional: tuple[str, ...]
    ) -> type[Struct]:
        fields: list[Any] = []
        for each in parameters:
            if each.default is each.empty:
                fields.append((each.name, hints[each.name]))
            elif each.name in positional:
                fields.append(
                    (each.name, hints[each.name], msgspec.field(default_factory=_same(each.default)))
                )
            else:
                fields.append((each.name, hints[each.name] | UnsetType, UNSET))
        try:
            return msgspec.defstruct("Arguments", fields, kw_only=True)
        except Exception as error:  # noqa: BLE001 (types run code of their authors)
            self._report(f"has parameters that cannot be converted: {error}")
            return Struct


def shown(value: object, most: int = 40) -> str:
    """What a value looks like in an error message, of at most so many characters."""
    try:
        return repr(value)[:most]
    except Exception:  # noqa: BLE001 (it is a value of the file's author)
        return f"<{type(value).__name__}>"[:most]


def _is_context(parameter: inspect.Parameter) -> bool:
    """Whether the parameter receives the call's context, if it is the first one."""
    by_position = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return parameter.name == CONTEXT and by_position


def _same(value: Any) -> Callable[[], Any]:
    return lambda: value


def _mistaken_options(function: ToolFunction[..., Any]) -> Iterator[str]:
    options = function.options
    name: object = function.name
    display_name: object = options.display_name
    seconds: object = options.timeout
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield (
            "has a name that model vendors refuse: it must have 1 to 64 letters, digits, _ or -, and begin "
            'with a letter or _; `@tool(name="...")` sets another one'
        )
    elif name == APPROVE:
        yield f"is named {APPROVE!r}, which stands for requests for approval"
    for field in ("approval", "read_only", "idempotent", "destructive", "resumable"):
        value = getattr(options, field)
        if not isinstance(value, bool):
            yield f"has `{field}={shown(value)}`: it must be True or False"
    if display_name is not None and not (isinstance(display_name, str) and 1 <= len(display_name) <= 200):
        yield "has a `display_name` that is not a text of 1 to 200 characters"
    if options.read_only is True and options.destructive is True:
        yield "cannot be both read_only and destructive"
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 < float(str(seconds)) <= MAX_TIMEOUT):
        yield f"has `timeout={shown(seconds)}`: it must be a number of seconds, up to {MAX_TIMEOUT:g}"


def _resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """The type that an annotation means, which may be written as a text."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": annotation}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return typing.get_type_hints(holder, names, include_extras=True)["hint"]


def _accepts_none(hint: Any) -> bool:
    try:
        msgspec.convert(None, hint)
    except msgspec.ValidationError:
        return False
    except Exception:  # noqa: BLE001 (no type that can be converted: that is reported elsewhere)
        return True
    return True


def _annotations(hint: Any) -> Iterator[str]:
    """The texts in `Annotated[..., "text"]` and `Annotated[..., Meta(description="text")]`."""
    if typing.get_origin(hint) is Annotated:
        for each in hint.__metadata__:
            text = each.description if isinstance(each, msgspec.Meta) else each
            if isinstance(text, str):
                yield text
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _annotations(part)
