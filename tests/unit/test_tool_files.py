"""Files with tools: what they add, and how mistakes in them are reported."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure.capabilities.port import Capability, Later
from perdure.capabilities.slow_files import named_if_slow
from perdure.capabilities.tool_files import load_tool_files
from perdure.domain.effects import done
from perdure.domain.errors import InvalidInput
from perdure.tools.built_in import catalogue

ROOT = Path(__file__).parents[2]
HEAD = "from perdure.tools import tool\n"


def load(folder: Path, **sources: str) -> tuple[Capability, ...]:
    """Write these files, whose names are the keys, and load them."""
    paths = [folder / f"{name}.py" for name in sources]
    for path, source in zip(paths, sources.values(), strict=True):
        path.write_text(textwrap.dedent(source), "utf-8")
    return load_tool_files(paths, catalogue())


def mistakes(folder: Path, **sources: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        load(folder, **sources)
    assert caught.value.code == "invalid_tools"
    first, *lines = caught.value.message.replace(f"{folder}/", "").splitlines()
    assert first == "the tools cannot be loaded:"
    return [line.removeprefix("  ") for line in lines]


def function(name: str = "look", line: str = "", doc: str = "Look.", signature: str = "") -> str:
    return f'@tool{line}\nasync def {name}({signature}) -> str:\n    """{doc}"""\n    return ""\n'


MISTAKES = {
    "syntax": ("x = (\n", ["tools.py:1: SyntaxError: '(' was never closed"]),
    "encoding": ("x = 1 \x00\n", ["tools.py:{any} source code string cannot contain null bytes"]),
    "import": (
        "\nimport no_such_module\n",
        ["tools.py:2: ModuleNotFoundError: No module named 'no_such_module'"],
    ),
    "name": (
        "from perdure.tools import nothing\n",
        ["tools.py:1: ImportError: cannot import name 'nothing'{any}"],
    ),
    "long message": (
        "raise ValueError('a\\n b' * 200)\n",
        [f"tools.py:1: ValueError: {('a' + ' ba' * 200)[:300]} ..."],
    ),
    "at import": (f"{HEAD}\n\nx = {{}}['a']\n", ["tools.py:4: KeyError: 'a'"]),
    "no exception": (
        "class Stop(BaseException): ...\nraise Stop('no')\n",
        ["tools.py:2: Stop: no"],
    ),
    "no message": (
        "class Mute(Exception):\n    def __str__(self):\n        return 5\nraise Mute\n",
        ["tools.py:4: Mute: it has no readable message"],
    ),
    "exit": ("import sys\nsys.exit('no')\n", ["tools.py:2: SystemExit: no"]),
    "option": (
        f"{HEAD}\n{function(line='(readonly=True)')}",
        ["tools.py:3: TypeError: @tool has no option `readonly`: its options are {any}"],
    ),
    "class": (f"{HEAD}\n@tool\nclass X: ...\n", ["tools.py:3: TypeError: @tool goes directly above{any}"]),
    "text": (
        HEAD + "\n" + function(line="('price')"),
        ["tools.py:3: TypeError: @tool takes options only: write `@tool(name='price')`"],
    ),
    "default": (
        HEAD + function(signature="a: int = 'one', b: str = None, c: float = 1, d: object = object()"),
        [
            "tools.py:3: look has a parameter `a` whose default 'one' does not have its type: {any}",
            "tools.py:3: look has a parameter `d` whose type is not supported{any}",
        ],
    ),
    "method": (
        f"{HEAD}class Shop:\n    @tool\n    async def price(self, item: str) -> int:\n        'Look.'\n",
        ["tools.py:4: price is inside a class or a function: move it to the top level of the file"],
    ),
    "inside": (
        f"{HEAD}{function('a')}def make():\n    @tool\n    async def b() -> int:\n        'Look.'\n",
        ["tools.py:8: b is inside a class or a function: move it to the top level of the file"],
    ),
    "nothing": ("x = 1\n", ["tools.py: defines no tool: put `@tool` above an `async def`{any}"]),
    "only imported": (
        "from perdure.capabilities.functions import as_tool\n",
        ["tools.py: defines no tool: put `@tool` above an `async def`{any}"],
    ),
    "sync": (f"{HEAD}\n@tool\ndef f() -> str:\n    'Do.'\n", ["tools.py:4: f is not `async def`{any}"]),
    "hint": (
        f"{HEAD}\n{function(signature=chr(10) + '    a: int,' + chr(10) + '    b=1,')}",
        ["tools.py:6: look has a parameter `b` without a type hint: write for example `b: str`"],
    ),
    "docstring": (
        HEAD + function(doc="Look.\n\n    Args:\n        x: No.", signature="a: int"),
        ["tools.py:7: look describes `x`, which is not one of its parameters (a)"],
    ),
    "no docstring": (
        f"{HEAD}\n@tool\nasync def f() -> str:\n    return ''\n",
        ["tools.py:4: f has no docstring that says what it does{any}"],
    ),
    "pattern": (
        f"import msgspec\nfrom typing import Annotated\n{HEAD}\n"
        + function(signature='a: Annotated[str, msgspec.Meta(pattern="x{30000}")]'),
        ["tools.py:6: look has a schema that `parameters.properties.a.pattern` is too large{any}"],
    ),
    "twice": (
        f"{HEAD}{function()}{function()}",
        ["tools.py:7: look has the name of the function in line 3: rename one"],
    ),
    "same name": (
        HEAD + function("a", "(name='b')") + function("b"),
        ["tools.py:7: b is already the name of a tool of tools.py: rename it, {any}"],
    ),
    "built-in tool": (
        HEAD + function("read_file"),
        ["tools.py:3: read_file is already the name of a tool of the capability `session_file_system`{any}"],
    ),
    "built-in capability": (
        HEAD + function("session_storage"),
        ["tools.py:3: session_storage is already the name of the capability `session_storage`{any}"],
    ),
    "reserved": (HEAD + function("approve_tool_call"), ["tools.py:3: approve_tool_call is named{any}"]),
    "not ASCII": (HEAD + function("größe"), ["tools.py:3: größe has a name that model vendors refuse{any}"]),
    "too long": (HEAD + function("f" * 65), [f"tools.py:3: {'f' * 65} has a name that model vendors{{any}}"]),
    "decorator": (
        "import functools\n"
        + HEAD
        + "def retry(f):\n    return functools.wraps(f)(lambda **k: f(**k))\n@retry\n"
        + function(),
        [
            "tools.py:7: look has a decorator above `@tool`: put `@tool` at the top",
        ],
    ),
    "several": (
        HEAD
        + function("a", signature="x")
        + function("b", signature="*y")
        + function("c", line="(timeout=0)"),
        [
            "tools.py:3: a has a parameter `x` without a type hint{any}",
            "tools.py:7: b takes `*y`{any}",
            "tools.py:11: c has `timeout=0`{any}",
        ],
    ),
    "future": (
        "from __future__ import annotations\n" + HEAD + function(signature="a: Missing"),
        ["tools.py:4: look has a parameter `a` whose type hint cannot be read: NameError{any}"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_with_its_line(name: str, tmp_path: Path) -> None:
    source, wanted = MISTAKES[name]
    found = mistakes(tmp_path, tools=source)
    for line, want in zip(found, wanted, strict=True):
        begin, _, end = want.partition("{any}")
        assert line.startswith(begin), found
        assert line.endswith(end), found
    assert "perdure_tools_tools" not in sys.modules or name not in ("syntax", "import", "exit")


def test_mistakes_of_all_files_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "my tools.py").touch()
    (tmp_path / "same.py").write_text(HEAD + function("other") + function("same"))
    (tmp_path / "web_fetch.py").write_text(HEAD + function("get"))
    paths = [tmp_path / name for name in ("none.py", "folder.py", "my tools.py", "same.py", "web_fetch.py")]
    with pytest.raises(InvalidInput) as caught:
        load_tool_files(paths, catalogue())
    assert caught.value.message.replace(f"{tmp_path}/", "").splitlines()[1:] == [
        "  none.py: does not exist",
        "  folder.py: is a folder: name a file",
        "  my tools.py: has a name that no capability can have: use 1 to 64 letters, digits, - or _, and .py",
        "  same.py: has several tools, and one has the name of the file, same: rename one of them",
        "  web_fetch.py: web_fetch is already the name of the capability `web_fetch`: rename the file",
    ]


def test_a_mistake_in_a_file_beside_it_is_reported_where_that_is_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_broken.py").write_text("\n\n\nx = (\n")
    source = "print('said at import')\nimport beside_broken\n"
    (line,) = mistakes(tmp_path, tools=source)
    assert line.startswith("tools.py:2: SyntaxError: '(' was never closed (beside_broken.py, line 4)")


def test_what_a_file_prints_does_not_reach_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path, tools=f"{HEAD}print('hello')\n{function()}")
    assert capsys.readouterr() == ("", "hello\n")


def test_values_that_refuse_to_be_looked_at_do_not_matter(tmp_path: Path) -> None:
    source = f"""
    class Proxy:
        def __getattribute__(self, name):
            raise RuntimeError("outside of a request")

    request = Proxy()
    {HEAD}
    @tool
    async def look() -> str:
        "Look."
    """
    file, _ = load(tmp_path, tools=f'"half \\ud800"\n{textwrap.dedent(source)}')
    assert (len(file.tools(None)), file.description) == (1, "half ?")


def test_files_with_tools_of_the_same_name_are_refused(tmp_path: Path) -> None:
    assert mistakes(tmp_path, one=HEAD + function(), two=HEAD + function()) == [
        'two.py:3: look is already the name of a tool of one.py: rename it, or use `@tool(name="...")`'
    ]


def test_a_file_and_its_functions_become_capabilities(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORDS = 'from beside'\n")
    source = f'''
    """What the file is for.

    More about it.
    """
    from __future__ import annotations
    import functools
    from dataclasses import dataclass
    from beside import WORDS
    {HEAD}
    @dataclass
    class Part:
        name: str
        inside: list[Other]

    @dataclass
    class Other:
        size: int

    def logged(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return await function(*args, **kwargs)
        return wrapper

    @tool(name="get-part", display_name="A part", timeout=5, idempotent=True)
    @logged
    async def part(ctx, part: Part) -> str:
        """Get a part.

        It is here.
        """
        return WORDS

    alias = part

    @tool(read_only=True)
    async def plain() -> str:
        """Be plain."""
        return ""
    '''
    file, get_part, plain = load(tmp_path, my_tools=source)
    assert (file.id, file.name, file.description) == ("my_tools", "My tools", "What the file is for.")
    assert (get_part.id, get_part.name, get_part.description) == ("get-part", "A part", "Get a part.")
    assert file.tools(None) == (*get_part.tools(None), *plain.tools(None))
    (tool,) = get_part.tools(None)
    assert (tool.timeout, tool.hints.idempotent, tool.hints.readonly) == (5, True, False)
    assert plain.tools(None)[0].hints.readonly
    assert tool.parameters["properties"]["part"]["properties"]["inside"]["items"]["required"] == ["size"]


def test_the_blocks_of_the_guides_are_files_with_tools(tmp_path: Path) -> None:
    found = []
    for page in ("README.md", "docs/guide/tools-in-a-file.md", "docs/guide/deferred.md"):
        for block in re.findall(
            r"```python\n(from perdure.tools .*?)```", (ROOT / page).read_text(), re.DOTALL
        ):
            file, *_ = load(tmp_path, my_tools=block)
            found.append([tool.name for tool in file.tools(None)])
    assert found == [
        ["price"],
        ["price", "order"],
        ["charge"],
        ["book_trip"],
        ["ask_the_warehouse"],
        ["order"],
    ]


async def test_a_function_may_return_later_and_may_be_verified(tmp_path: Path) -> None:
    source = f'''
    from perdure.tools import Context, Later, Verified, done
    {HEAD}
    async def paid(ctx, /, cents: int) -> Verified:
        return done({{"ctx": ctx, "cents": cents}})

    @tool(verify=paid, resumable=True)
    async def pay(ctx: Context, to: str, cents: int = 5) -> Later:
        """Pay."""
        return Later("callback", cents * 10**15)

    @tool(verify=lambda: None)
    async def other() -> str:
        """Pay."""
    '''
    assert mistakes(tmp_path, tools=source) == [
        "tools.py:14: other has a `verify` that is not an `async def`"
    ]
    file, *_ = load(tmp_path, tools=source.replace("(verify=lambda: None)", ""))
    tool, _ = file.tools(None)
    context: Any = "the context"
    assert tool.resumable
    assert tool.verify is not None
    assert await tool.run(context, {"to": "me"}) == Later("callback", 5 * 10**15)  # type: ignore[arg-type]
    assert await tool.verify(context, {"to": "me", "cents": 7}) == done({"ctx": context, "cents": 7})
    # What the call leaves out has the tool's default, as in the call.
    assert await tool.verify(context, {"to": "me"}) == done({"ctx": context, "cents": 5})


def test_a_single_function_may_have_the_name_of_its_file(tmp_path: Path) -> None:
    (only,) = load(tmp_path, look=HEAD + function())
    assert (only.id, len(only.tools(None))) == ("look", 1)
    twice = [tmp_path / "look.py", tmp_path / "." / "look.py"]
    assert len(load_tool_files(twice, ())) == 1


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the modules and the folders that a test has loaded."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [each for each in sys.modules if each.startswith("perdure_tools_")]:
        monkeypatch.delitem(sys.modules, name)


class Heard(logging.Handler):
    """Keeps what is logged, and tells when there is something."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.some = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.some.set()


def test_a_file_that_hangs_while_it_is_loaded_is_named_with_the_line() -> None:
    heard = Heard()
    logging.getLogger("perdure.tools").addHandler(heard)
    try:
        code = compile("\nheard.some.wait(30)\n", "slow_tools.py", "exec")
        with named_if_slow("slow_tools.py", 0.01):
            exec(code, {"heard": heard})
        with named_if_slow("slow_tools.py", 3600.0):
            exec("pass")
    finally:
        logging.getLogger("perdure.tools").removeHandler(heard)
    (line,) = heard.lines
    assert line.startswith("slow_tools.py:2: this line still runs after 0.01 seconds")
