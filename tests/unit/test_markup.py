"""Texts are escaped as the standard library escapes them."""

from __future__ import annotations

import html
from xml.sax.saxutils import quoteattr

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.markup import escape, quoted

TEXTS = st.text(st.sampled_from("&<>\"'\n\r\t; amp\u2028é"))


@given(TEXTS)
def test_html_is_escaped_as_by_the_standard_library(text: str) -> None:
    assert escape(text) == html.escape(text)


@given(TEXTS)
def test_an_attribute_is_quoted_as_by_the_standard_library(text: str) -> None:
    assert quoted(text) == quoteattr(text)
