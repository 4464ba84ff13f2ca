"""Agents as files: a written agent reads back unchanged, and invalid files are refused."""

from __future__ import annotations

import sys
from importlib import reload
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.domain import front_matter
from perdure.domain.agent_files import read_agent_file, write_agent_file
from perdure.domain.agents import CreateAgent
from perdure.domain.errors import InvalidInput
from perdure.domain.examples import AGENT_EXAMPLES
from perdure.domain.front_matter import MAX_NODES, read_yaml, split_front_matter, write_yaml
from perdure.domain.sessions import InitialFile, NetworkAccess
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool, ToolHints

# Pieces with a meaning in YAML, Markdown or line endings, in addition to arbitrary characters.
PIECES = (
    "---", "...", "- a", "a: b", " ", "  x", "\n", "\r", "\r\n", "#", "null", "~", "true", "no", "1e3", "007",
    "0x1", "2020-01-01",
    "1:30", "=", "<<", "\t", "\x07", "\x85", "\u2028", "\ufeff", "\ufffe", "\U0001f600", "'", '"', ":", "|",
    ">", "%", "@", "`",
    "*a", "&a", "!t", "{", "[", ",", "?", "\\",
)  # fmt: skip
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
TEXT = ANY | st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
OBJECT = st.dictionaries(TEXT, PLAIN, max_size=3)
NAME = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
TOOL_NAME = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
HOSTS = st.sampled_from(
    ["example.com", "*.example.com", "*", "[::1]", "0x7f.1", "no", "1e3", "b\u00fccher.example"]
)
HINTS = st.none() | st.builds(
    ToolHints, readonly=st.none() | st.booleans(), destructive=st.none() | st.booleans()
)
AGENT = st.builds(
    CreateAgent,
    name=NAME,
    system_prompt=TEXT,
    display_name=st.none() | TEXT,
    description=st.none() | TEXT,
    harness_name=st.none() | NAME,
    capabilities=st.lists(st.builds(CapabilityRef, ref=TEXT.filter(bool), config=PLAIN), max_size=2).map(
        tuple
    ),
    tools=st.lists(
        st.builds(BuiltinTool, name=TOOL_NAME, description=TEXT, parameters=OBJECT, hints=HINTS)
        | st.builds(
            ClientSideTool, name=TOOL_NAME, description=TEXT, parameters=OBJECT, display_name=st.none() | TEXT
        ),
        max_size=2,
    ).map(tuple),
    tags=st.lists(TEXT, max_size=3).map(tuple),
    initial_files=st.lists(
        st.builds(InitialFile, path=TEXT.filter(bool), content=TEXT, is_readonly=st.booleans()), max_size=2
    ).map(tuple),
    max_iterations=st.none() | st.integers(1, 1000),
    parallel_tool_calls=st.none() | st.booleans(),
    network_access=st.none() | st.builds(NetworkAccess, allowed=st.lists(HOSTS, max_size=2).map(tuple)),
)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: to Python, True is 1 and 1 is 1.0."""
    return msgspec.json.encode(one) == msgspec.json.encode(other)


@given(AGENT)
@example(CreateAgent("a", ""))
@example(CreateAgent("a", "  ends with spaces  \n"))
@example(CreateAgent("a", "---\nname: other\n---\n"))
def test_an_agent_written_to_a_file_reads_back_unchanged(agent: CreateAgent) -> None:
    assert same(read_agent_file(write_agent_file(agent)), agent)


@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_every_plain_value_survives_yaml(value: dict[str, Any]) -> None:
    assert same(read_yaml(write_yaml(value)), value)


@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_no_line_of_the_front_matter_looks_like_its_end(value: dict[str, Any]) -> None:
    written = write_yaml(value)
    assert split_front_matter(f"---\n{written}---\nbody") == (written.replace("\r\n", "\n"), "body")


def test_a_file_survives_without_the_c_library_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CSafeDumper", "CSafeLoader"):
        monkeypatch.delattr(yaml, name, raising=False)
    slow = reload(sys.modules[front_matter.__name__])
    try:
        value = {
            "text": "a\n\n b\x85\u2028 ",
            "words": ["no", "null", "1e3", "1", "~", ""],
            "numbers": [1, -2.5e300],
            "deep": {"a": [{}]},
        }
        assert same(slow.read_yaml(slow.write_yaml(value)), value)
    finally:
        monkeypatch.undo()
        reload(sys.modules[front_matter.__name__])


def test_a_file_looks_as_a_person_would_write_it() -> None:
    agent = CreateAgent(
        "desk",
        "Be kind.\n\nBe brief.",
        tags=("1", "on"),
        initial_files=(InitialFile("/a.md", "# Hi\n\nYou.\n"),),
    )
    assert write_agent_file(agent) == (
        "---\nname: desk\ntags:\n- \"1\"\n- 'on'\n"
        "initial_files:\n- path: /a.md\n  content: |\n    # Hi\n\n    You.\n---\n"
        "\nBe kind.\n\nBe brief.\n"
    )


def test_a_hand_written_file_may_have_windows_line_ends_and_a_byte_order_mark() -> None:
    agent = read_agent_file(
        "\ufeff---\r\nname: desk\r\ntags: [a, yes, 007]\r\n---\r\n\r\nBe kind.\r\n\r\nBe brief.\r\n"
    )
    assert (agent.name, agent.tags, agent.system_prompt) == (
        "desk",
        ("a", "yes", "007"),
        "Be kind.\n\nBe brief.",
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "desk", "system_prompt": "Be kind."}',
        "name: desk\nsystem_prompt: Be kind.\n",
        "# The desk\n\nname: x",
    ],
)
def test_json_yaml_and_plain_prompts_are_accepted_too(text: str) -> None:
    agent = read_agent_file(text)
    assert agent.name in ("desk", "the-desk")
    assert agent.system_prompt in ("Be kind.", text)


@pytest.mark.parametrize(
    ("front", "words"),
    [
        ("name: a\nname: b", "twice"),
        ("name: &x a\ntags: [*x]", "anchors"),
        ("tags: [*x]", "aliases"),
        ("name: !!python/object:os.system a", "tags"),
        ("? [a]\n: b", "key"),
        ("name: a\ntags: [a\nb: c", "line 4"),
        ('name: "\\0"', "NUL"),
        ("max_iterations: 99999999999999999999", "64 bits"),
        ("max_iterations: 1e999", "double"),
        ("name: a\ncapabilites: []", "capabilites"),
        ("name: A B", "name"),
        ("- name", "mapping"),
        ("a: " + "[" * 200, "deep"),
        ("a: [" + "1," * (MAX_NODES + 1) + "]", "at most 100000 values"),
        ("a: \x01", "control characters"),
    ],
)
def test_unsupported_yaml_gets_a_helpful_error(front: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_agent_file(f"---\n{front}\n---\nBe kind.")


@pytest.mark.parametrize(
    "text", ["", "  \n", "---\nname: a\n", "---\nname: a\nsystem_prompt: b\n---\nc", "---\nname: a\n---\n"]
)
def test_a_file_without_an_end_a_prompt_or_with_two_prompts_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_agent_file(text)


@pytest.mark.parametrize("agent", AGENT_EXAMPLES, ids=lambda agent: agent.name)
def test_the_examples_are_agents_that_can_be_written(agent: CreateAgent) -> None:
    assert same(read_agent_file(write_agent_file(agent)), agent)
