"""Loads tools from Python files: once, at start, and without a package.

Each function of a file is a capability of its own name, and the file is one with all of its functions. All
mistakes in all files are collected, and reported with file and line.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from perdure.capabilities.functions import as_tool, capability_of, capability_with
from perdure.capabilities.port import Capability, Tool
from perdure.capabilities.slow_files import named_if_slow
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import storable
from perdure.domain.tool_functions import InvalidToolFunction, Problem, ToolFunction
from perdure.domain.tool_functions import tool as own_decorator
from perdure.domain.tool_schemas import SchemaBudget, check_schema

Definition = ast.FunctionDef | ast.AsyncFunctionDef

MAX_MESSAGE = 300
"""Characters of an exception's message that are shown."""

_STEM = re.compile(r"[A-Za-z0-9_-]{1,64}")


def load_tool_files(paths: Iterable[Path], known: Iterable[Capability]) -> tuple[Capability, ...]:
    """Load the tools of these files; the files are executed.

    Args:
        known: the other capabilities of this server, whose names and tools' names are taken.

    Raises:
        InvalidInput: `invalid_tools`; the message lists all mistakes with file and line.
    """
    taken = _names_of(known)
    capabilities: list[Capability] = []
    problems: list[str] = []
    loaded: set[Path] = set()
    for path in paths:
        if path.resolve() not in loaded:
            loaded.add(path.resolve())
            file = _File(path, taken)
            capabilities += file.load()
            problems += file.problems()
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise InvalidInput(f"the tools cannot be loaded:{lines}", code="invalid_tools")
    return tuple(capabilities)


def _names_of(capabilities: Iterable[Capability]) -> dict[str, str]:
    """The names that are taken, each with what has it."""
    taken: dict[str, str] = {}
    for capability in capabilities:
        for tool in capability.tools(None):
            taken[tool.name] = f"a tool of the capability `{capability.id}`"
        for name in (capability.id, *capability.aliases):
            taken[name] = f"the capability `{capability.id}`"
    return taken


class _File:
    """One file, and its mistakes."""

    def __init__(self, path: Path, taken: dict[str, str]) -> None:
        self._path = path
        self._taken = taken
        self._problems: list[tuple[int, str]] = []
        self._definitions: dict[int, Definition] = {}

    def problems(self) -> Iterator[str]:
        """The mistakes, in the order of the file."""
        for line, text in sorted(self._problems):
            yield f"{self._path}:{line}: {text}" if line else f"{self._path}: {text}"

    def load(self) -> list[Capability]:
        """The file's capabilities; none if it has mistakes."""
        source = self._read()
        module = None if source is None else self._execute(source)
        if module is None:
            return []
        functions = self._functions(module)
        if not functions and not self._problems:
            self._report(0, "defines no tool: put `@tool` above an `async def`. Imported tools do not count")
        tools = [tool for each in functions if (tool := self._tool(each)) is not None]
        self._check_name_of_file(tools)
        return [] if self._problems else self._capabilities(module, tools)

    def _report(self, line: int, text: str) -> None:
        self._problems.append((line, text))

    def _read(self) -> bytes | None:
        if self._path.suffix != ".py" or not _STEM.fullmatch(self._path.stem):
            self._report(
                0, "has a name that no capability can have: use 1 to 64 letters, digits, - or _, and .py"
            )
            return None
        try:
            if not self._path.is_file():
                self._report(0, "is a folder: name a file" if self._path.is_dir() else "does not exist")
                return None
            return self._path.read_bytes()
        except OSError as error:
            self._report(0, f"cannot be read: {error.strerror}")
            return None

    def _execute(self, source: bytes) -> ModuleType | None:
        name, file = f"perdure_tools_{self._path.stem}", str(self._path)
        module = ModuleType(name)
        module.__file__ = file
        # Classes find the names in their annotations there.
        sys.modules[name] = module
        if (folder := str(self._path.resolve().parent)) not in sys.path:
            sys.path.append(folder)  # last, so that a file beside this one replaces no installed module
        try:
            tree = ast.parse(source, file)
            self._definitions = {
                _first_line(each): each for each in ast.walk(tree) if isinstance(each, Definition)
            }
            self._find_shadowed(tree)
            # Scripts wait for the first line that the server prints.
            with contextlib.redirect_stdout(sys.stderr), named_if_slow(file):
                exec(compile(tree, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
            self._find_hidden(tree, module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (the file's author may raise anything)
            if isinstance(error, SyntaxError) and error.filename == file:
                self._report(error.lineno or 0, f"{type(error).__name__}: {error.args[0]}")
            else:
                self._report(self._line_of(error), _explained(error))
        else:
            return module
        del sys.modules[name]
        return None

    def _line_of(self, error: BaseException) -> int:
        """The line of this file that an exception comes from."""
        frames = traceback.extract_tb(error.__traceback__)
        return next((each.lineno or 0 for each in reversed(frames) if each.filename == str(self._path)), 0)

    def _find_shadowed(self, tree: ast.Module) -> None:
        """Report tools that a later function of the same name replaces."""
        seen: dict[str, Definition] = {}
        for each in tree.body:
            if not isinstance(each, Definition):
                continue
            before = seen.get(each.name)
            if before is not None and any(map(_is_tool, (*before.decorator_list, *each.decorator_list))):
                self._report(
                    each.lineno,
                    f"{each.name} has the name of the function in line {before.lineno}: rename one",
                )
            seen[each.name] = each

    def _functions(self, module: ModuleType) -> list[ToolFunction[..., Any]]:
        """The tool functions that the file defines, each once."""
        found: dict[int, ToolFunction[..., Any]] = {}
        for name, value in list(vars(module).items()):
            if _is_function(value):
                if value.function.__module__ == module.__name__:
                    found[id(value)] = value
            elif (covered := _covered(value)) is not None:
                line = self._line(covered, None)
                self._report(line, f"{name} has a decorator above `@tool`: put `@tool` at the top")
        return list(found.values())

    def _find_hidden(self, tree: ast.Module, module: ModuleType) -> None:
        """Report tools inside classes and functions, unless the file has a name for them."""
        if vars(module).get("tool") is not own_decorator:
            return
        found = {_code_line(each) for each in vars(module).values() if _is_function(each)}
        inside = {
            each.lineno: each
            for outer in ast.walk(tree)
            if isinstance(outer, Definition | ast.ClassDef)
            for each in ast.walk(outer)
            if each is not outer and isinstance(each, Definition)
        }
        for line, each in inside.items():
            if any(map(_is_tool, each.decorator_list)) and _first_line(each) not in found:
                self._report(
                    line, f"{each.name} is inside a class or a function: move it to the top level of the file"
                )

    def _tool(self, function: ToolFunction[..., Any]) -> Tool | None:
        """Make the tool of a function; None if it has mistakes."""
        try:
            tool = as_tool(function)
            check_schema(tool.parameters, "parameters", SchemaBudget())
        except InvalidToolFunction as error:
            for problem in error.problems:
                self._report(self._line(function, problem), f"{function.name} {problem.text}")
            return None
        except InvalidInput as error:
            self._report(self._line(function, None), f"{function.name} has a schema that {error.message}")
            return None
        if tool.name in self._taken:
            owner = self._taken[tool.name]
            self._report(
                self._line(function, None),
                f'{tool.name} is already the name of {owner}: rename it, or use `@tool(name="...")`',
            )
            return None
        self._taken[tool.name] = f"a tool of {self._path}"
        return tool

    def _line(self, function: ToolFunction[..., Any], problem: Problem | None) -> int:
        """The line to show for a mistake: of the parameter, the docstring or the function."""
        first = _code_line(function)
        definition = self._definitions.get(first)
        if definition is None:
            return first
        if problem is not None and problem.parameter is not None:
            given = definition.args
            every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
            return next((e.lineno for e in every if e and e.arg == problem.parameter), definition.lineno)
        if problem is not None and problem.doc_line is not None:
            text = ast.get_docstring(definition, clean=False) or ""
            return definition.body[0].lineno + _blank_lines(text) + problem.doc_line
        return definition.lineno

    def _check_name_of_file(self, tools: Sequence[Tool]) -> None:
        stem = self._path.stem
        own = stem in [tool.name for tool in tools]
        if own and len(tools) > 1:
            self._report(
                0, f"has several tools, and one has the name of the file, {stem}: rename one of them"
            )
        elif not own and stem in self._taken:
            self._report(0, f"{stem} is already the name of {self._taken[stem]}: rename the file")
        else:
            self._taken[stem] = f"the tools of {self._path}"

    def _capabilities(self, module: ModuleType, tools: Sequence[Tool]) -> list[Capability]:
        doc = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0]
        file = capability_with(self._path.stem, tools, description=storable(" ".join(doc.split())))
        return [file, *(capability_of(tool) for tool in tools if tool.name != file.id)]


def _is_function(value: object) -> TypeGuard[ToolFunction[..., Any]]:
    """Whether it is a tool's function. Objects that stand for others are not asked what they are."""
    return issubclass(type(value), ToolFunction)


def _covered(value: object) -> ToolFunction[..., Any] | None:
    """The tool's function below a decorator."""
    try:
        below = getattr(value, "__wrapped__", None)
    except Exception:  # noqa: BLE001 (a value of the author may refuse to be looked at)
        return None
    return below if _is_function(below) else None


def _explained(error: BaseException) -> str:
    """The exception in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 (the exception may be the author's own)
        text = "it has no readable message"
    return f"{type(error).__name__}: {text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + ' ...'}"


def _first_line(node: Definition) -> int:
    """The line that a function's code begins with: that of its first decorator."""
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


def _code_line(function: ToolFunction[..., Any]) -> int:
    """The line that the code of a tool's function begins with."""
    line: int = inspect.unwrap(function.function).__code__.co_firstlineno
    return line


def _is_tool(decorator: ast.expr) -> bool:
    """Whether a decorator looks like `@tool`, `@tool(...)` or `@tools.tool`."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")) == "tool"


def _blank_lines(text: str) -> int:
    """The blank lines at the beginning of a text."""
    lines = text.split("\n")
    return next((number for number, line in enumerate(lines) if line.strip()), 0)
