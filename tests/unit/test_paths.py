"""Paths: every spelling has one normal form, and none leaves the workspace."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.paths import (
    MAX_DEPTH,
    MAX_PATH,
    clean_path,
    file_id,
    folders_above,
    is_below,
    name_of,
    parent_of,
)


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("/a/b", "/a/b"),
        ("a/b", "/a/b"),
        ("./a//b/", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/./b/.", "/a/b"),
        ("", None),
        ("   ", None),
        (".", "/"),
        ("/", "/"),
        ("///", "/"),
        (" /a ", "/a"),
        ("/a b/c", "/a b/c"),
        ("/...", "/..."),
        ("/.hidden", "/.hidden"),
    ],
)
def test_a_path_has_one_form(written: str, clean: str | None) -> None:
    if clean is None:
        with pytest.raises(InvalidInput):
            clean_path(written)
    else:
        assert clean_path(written) == clean


@pytest.mark.parametrize(
    "written",
    [
        "../../etc/passwd",
        "/../../etc/passwd",
        "/a/../../etc/passwd",
        "a/../../../etc/passwd",
        "./../etc/passwd",
        "//etc//passwd",
        "/etc/./passwd",
        "/x/y/../../../../etc/passwd",
    ],
)
def test_no_path_climbs_above_the_root(written: str) -> None:
    assert clean_path(written) == "/etc/passwd"


@pytest.mark.parametrize(
    "written",
    [
        "/a\x00b", "/a\nb", "/a\x1b[31mb", "/a\x7fb", "/a\x85b", "/a\u2028b", "/a\u202eb", "/a\ufeffb",
        "/a\u2066b", "/a\ud800b",
        "..\\..\\etc", "/a\\b", "C:\\a", "/a /b", "/a/ b", "/a/\u3000b", "/_", "/_/grep", "_/x", "/./_/x",
        "/x/../_/y",
        "/" + "x" * 256, "/" + "é" * 128, "/" + "x" * MAX_PATH, "/x" * (MAX_DEPTH + 1),
        "/" + "\U0001f600" * 64,
        "/".join(["é" * 100] * 6),
    ],
)  # fmt: skip
def test_an_invalid_path_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        clean_path(written, "src_path")
    assert (refused.value.code, refused.value.field) == ("invalid_path", "src_path")


def test_names_that_look_the_same_are_the_same() -> None:
    composed, apart = "/caf\u00e9.md", "/cafe\u0301.md"
    assert composed != apart
    assert clean_path(composed) == clean_path(apart) == composed


def test_a_percent_sign_is_only_a_percent_sign() -> None:
    assert clean_path("/%2e%2e/%2fetc") == "/%2e%2e/%2fetc"


@given(st.text(max_size=60))
def test_cleaning_a_path_is_idempotent(written: str) -> None:
    try:
        clean = clean_path(written)
    except InvalidInput:
        return
    assert clean_path(clean) == clean
    assert clean.startswith("/")
    names = clean.split("/")[1:]
    assert ".." not in names
    assert "." not in names
    assert clean == "/" or "" not in names
    assert unicodedata.is_normalized("NFC", clean)
    assert len(clean.encode()) <= MAX_PATH


def test_parents_and_children_of_paths() -> None:
    assert folders_above("/a/b/c") == ["/a", "/a/b"]
    assert folders_above("/a") == folders_above("/") == []
    assert (parent_of("/a/b"), parent_of("/a"), parent_of("/")) == ("/a", "/", "/")
    assert (name_of("/a/b"), name_of("/")) == ("b", "/")
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/")
    assert not is_below("/ab", "/a")
    assert not is_below("/a", "/a")


def test_an_id_depends_on_path_and_workspace() -> None:
    here, there = "workspace_" + "0" * 31 + "1", "workspace_" + "0" * 31 + "2"
    assert file_id(here, "/a") == file_id(here, "/a")
    assert len({file_id(here, "/a"), file_id(here, "/b"), file_id(there, "/a")}) == 3
