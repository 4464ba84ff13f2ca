"""Versions of agents: numbers, hashes and diffs; and the names of copies."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.agent_versions import (
    AuthoredConfig,
    ChangeKind,
    PatchStep,
    diff_configs,
    hash_of_config,
    is_published,
    next_semver,
)
from perdure.domain.resources import MAX_NAME, copy_name, copy_stem
from perdure.domain.sessions import NetworkAccess
from perdure.domain.tools import CapabilityRef, ClientSideTool

SMALL = st.sampled_from(["", "a", "a/b", "~", "x~1"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.just(1.0) | SMALL,
    lambda v: st.dictionaries(SMALL, v),
    max_leaves=5,
)
CONFIG = st.builds(
    AuthoredConfig,
    system_prompt=SMALL,
    harness_id=SMALL,
    description=st.none() | SMALL,
    tags=st.lists(SMALL, max_size=2).map(tuple),
    capabilities=st.lists(st.builds(CapabilityRef, ref=SMALL, config=VALUE), max_size=2).map(tuple),
    tools=st.lists(
        st.builds(ClientSideTool, name=SMALL, description=SMALL, parameters=st.dictionaries(SMALL, VALUE)),
        max_size=1,
    ).map(tuple),
    max_iterations=st.none() | st.integers(1, 3),
    network_access=st.none() | st.builds(NetworkAccess, allowed=st.lists(SMALL, max_size=2).map(tuple)),
)


class Thing(msgspec.Struct, frozen=True):
    inside: dict[str, Any]


def patched(value: Any, steps: tuple[PatchStep, ...]) -> Any:
    """Apply a JSON Patch (RFC 6902, only the operations that are used here)."""
    value = copy.deepcopy(value)
    for step in msgspec.to_builtins(steps):
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        place = value
        for part in way:
            place = place[part]
        assert (last in place) == (step["op"] != "add")
        if last in place:
            assert place.pop(last) == step["old"]
        if step["op"] != "remove":
            place[last] = step["value"]
    return value


def as_json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


@given(CONFIG, CONFIG)
def test_the_difference_is_a_patch_that_turns_one_into_the_other(
    old: AuthoredConfig, new: AuthoredConfig
) -> None:
    assert as_json(patched(msgspec.to_builtins(old), diff_configs(old, new))) == as_json(new)


@given(st.dictionaries(SMALL, VALUE), st.dictionaries(SMALL, VALUE))
def test_the_difference_reaches_into_objects(old: dict[str, Any], new: dict[str, Any]) -> None:
    steps = diff_configs(Thing(old), Thing(new))
    assert as_json(patched({"inside": old}, steps)) == as_json({"inside": new})
    assert all(step.path.startswith("/inside/") for step in steps)


@given(CONFIG, CONFIG)
def test_equal_hashes_mean_equal_configurations(one: AuthoredConfig, other: AuthoredConfig) -> None:
    assert (hash_of_config(one) == hash_of_config(other)) == (as_json(one) == as_json(other))
    assert (diff_configs(one, other) == ()) == (as_json(one) == as_json(other))


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("auto", (1, 2, 4)),
        ("manual", (1, 2, 4)),
        ("patch", (1, 2, 4)),
        ("minor", (1, 3, 0)),
        ("major", (2, 0, 0)),
        ("rollback", (1, 2, 4)),
    ],
)
def test_only_minor_and_major_change_more_than_the_patch_number(
    kind: ChangeKind, number: tuple[int, int, int]
) -> None:
    assert next_semver((1, 2, 3), kind) == number
    assert next_semver(None, kind) == (1, 0, 0)
    assert is_published(kind) == (kind != "auto")


@pytest.mark.parametrize(
    ("name", "taken", "copy"),
    [
        ("desk", set(), "desk-copy"),
        ("desk", {"desk-copy"}, "desk-copy-2"),
        ("desk-copy", {"desk-copy"}, "desk-copy-2"),
        ("desk-copy-7", {"desk-copy", "desk-copy-2"}, "desk-copy-3"),
        ("photo-copy-shop", set(), "photo-copy-shop-copy"),
    ],
)
def test_a_copy_gets_the_next_free_name(name: str, taken: set[str], copy: str) -> None:
    assert copy_name(name, taken) == copy


@given(
    st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(lambda name: len(name) <= MAX_NAME),
    st.integers(0, 40),
)
def test_the_name_of_a_copy_is_valid_and_begins_with_the_stem(name: str, copies: int) -> None:
    taken: set[str] = set()
    for _ in range(copies):
        taken.add(copy_name(name, taken))
    found = copy_name(name, taken)
    assert found not in taken
    assert len(found) <= MAX_NAME
    assert found.startswith(copy_stem(name))
    assert not found.startswith("-")
    assert "--" not in found
