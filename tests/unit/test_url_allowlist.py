"""URLs of hosts that are not on a list are found, in every way in which browsers and Markdown read them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.guardrail_checks import GuardrailsConfig
from perdure.domain.guardrails import Guardrails, replaced


def rules(**more: Any) -> Guardrails:
    check = {"type": "url_allowlist", "hosts": ["example.com", "*.example.org", "bücher.de"], **more}
    return Guardrails(msgspec.convert({"checks": [check]}, GuardrailsConfig).checks)


ALLOWED = [
    "https://example.com/a?b=https",
    "(https://example.com), **https://example.com**, https://example.com.",
    "<https://EXAMPLE.com:8443/x> [a](http://x.example.org/y) _https://example.com_",
    "![a](/own/picture.png) [b](#here) [c](other.html)",
    "https://user:password@example.com/",
    "https://ex\u200bample.com https://xn--bcher-kva.de https://BÜCHER.de",
    "http: foo, 12:30, C:\\windows, std::vector, a//b, // comment, data:text/plain;x, mailto:a@b.com",
]


@pytest.mark.parametrize("text", ALLOWED)
def test_allowed_urls_pass(text: str) -> None:
    assert not rules().scan("output", text)


NOT_ALLOWED = [
    "https://evil.test",
    "HTTPS://evil.test/",
    "https:evil.test",
    "https:/evil.test",
    "https:\\\\evil.test",
    "https:///evil.test",
    "http://example.com@evil.test",
    "http://example.com:80@evil.test",
    "https://example.com.evil.test",
    "https://example.com%2eevil.test",
    "https://example.com\u3002evil.test",
    "https://notexample.com",
    "https://example.org",
    "https://evil.test\\@example.com",
    "https://evil.test#@example.com",
    "https://192.0.2.1/ ",
    "https://[::1]/",
    "https://3232235777/",
    "ftp://evil.test",
    "wss://evil.test",
    "postgres://evil.test",
    "www.evil.test",
    "_www.evil.test_",
    "_https://evil.test_",
    "xhttps://evil.test",
    "![x](//evil.test/p.png?d=secret)",
    "![x](  <//evil.test/p.png>)",
    "[x]: //evil.test",
    "[x](https&#58;//evil.test)",
    "[x](https&colon;&sol;&sol;evil.test)",
    "[x](https\\://evil.test)",
    "<img src=//evil.test/x>",
    '<a href="//evil.test">',
    "<img src='https://evil.test/x'>",
    "url(//evil.test/x)",
    "https://e\u200bvil.test",
    "https://\uff45vil.test",
    "[x](https://example.com&#46;evil.test)",
    "[x](https://example.com&#64;evil.test)",
    "[x](https://example.com&period;evil.test)",
    "https://exam\\ple.com",
    "https://" + "a" * 400 + ".example.com",
    "https://example.com https://evil.test",
]


@pytest.mark.parametrize("text", NOT_ALLOWED)
def test_other_urls_are_found(text: str) -> None:
    assert rules().scan("output", text)
    assert rules().scan("output", f"See {text} now")


def test_an_address_can_be_allowed() -> None:
    check = rules(hosts=["192.0.2.1", "2001:db8::1"])
    assert not check.scan("output", "http://192.0.2.1/ https://[2001:DB8::1]:8443/x")
    assert len(check.scan("output", "http://192.0.2.2/ https://[2001:db8::2]/")) == 2


def test_without_hosts_every_url_is_found() -> None:
    assert len(rules(hosts=[]).scan("output", "https://example.com www.example.com ftp://a.b")) == 3


def test_a_url_is_replaced_with_its_path_and_what_it_carries() -> None:
    check = rules(action="replace", replacement="[link]")
    text = "![x](https://evil.test/p.png?d=secret&more=1) and https://example.com/a, www.evil.test/b?c."
    assert replaced(text, check.scan("output", text)) == "![x]([link]) and https://example.com/a, [link]"


def test_a_url_that_blocks_needs_a_smaller_window_than_one_that_is_replaced() -> None:
    assert (rules().window("output"), rules(action="replace").window("output")) == (401, 2_401)
