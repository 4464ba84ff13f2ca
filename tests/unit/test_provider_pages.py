"""Each type of provider has a page that names its address, its key and what is never sent to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdure.llm.dialects import NAMED, Dialect
from perdure.llm.registry import KINDS

PAGES = Path(__file__).parents[2] / "docs" / "guide" / "providers"
ELSEWHERE = {"openai", "openai_completions", "anthropic", "llmsim"}
"""Described in the guide of models."""


def page_of(provider_type: str) -> str:
    return (PAGES / f"{provider_type.replace('_', '-')}.md").read_text("utf-8")


@pytest.mark.parametrize("provider_type", sorted(KINDS.keys() - ELSEWHERE))
def test_each_type_has_a_page_that_says_what_was_tested_against_what(provider_type: str) -> None:
    page, kind = page_of(provider_type), KINDS[provider_type]
    assert f"`{provider_type}`" in page
    assert kind.environment is None or f"`{kind.environment}`" in page
    assert f"({provider_type.replace('_', '-')}.md)" in (PAGES / "README.md").read_text("utf-8")
    tested = page.partition("## What was tested against what")[2]
    assert re.search(r"not a\s+(live\s+account|running)", tested)
    tests = PAGES.parents[2] / "tests" / "conformance" / "drivers"
    assert all((tests / name).exists() for name in re.findall(r"`(test_\w+\.py)`", page))


@pytest.mark.parametrize("dialect", NAMED, ids=lambda dialect: dialect.name)
def test_the_page_of_a_dialect_says_what_the_table_says(dialect: Dialect) -> None:
    page = page_of(dialect.name)
    assert dialect.base_url is None or f"`{dialect.base_url}`" in page
    for parameter in dialect.refused:
        assert f"`{parameter}`" in page, parameter
    assert dialect.blocks is None or f"`{dialect.blocks}`" in page
