"""URLs in texts, and whether their hosts are allowed.

URLs are read as browsers and Markdown read them, which is more than the standard permits: backslashes,
missing slashes, character references. What cannot be read counts as not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import UrlAllowlistCheck
from perdure.domain.guardrail_text import Subject
from perdure.domain.linear_regex import compile_re2
from perdure.domain.network import check_network, combine
from perdure.domain.sessions import NetworkAccess

_HOST = 300
"""Characters of a URL's host, user and port that are read; a longer one is not allowed."""
_PATH = 2_000
"""Characters after the host that are replaced with it."""

_END = r"\s\"'`<>(){}\[\]|\\/?#"
"""What ends the part of a URL that has the host."""
_COLON = r"\\?(?::|&colon;|&#0{0,4}58;|&#x0{0,4}3a;)"
_SLASH = r"\\?(?:[\\/]|&sol;|&bsol;|&#0{0,4}(?:47|92);|&#x0{0,4}(?:2f|5c);)"
_START = "|".join(
    (
        rf"[a-z][a-z0-9+.-]{{1,15}}{_COLON}(?:{_SLASH}){{2}}",  # any scheme with a host
        rf"(?:https?|wss?|ftps?){_COLON}",  # browsers accept these without slashes
        rf"\]\(\s{{0,3}}<?{_SLASH}{_SLASH}",  # a link or image of Markdown
        rf"\]:\s{{0,3}}<?{_SLASH}{_SLASH}",  # a link that is defined in another place
        rf"(?:src|href|srcset|action|poster|background|url)\s?[=(]\s?[\"']?{_SLASH}{_SLASH}",  # HTML and CSS
    )
)
_BEFORE = rf"(?:{_START})(?:{_SLASH}){{0,4}}|www\."
_BEFORE_HOST = 100
_HOSTS = re.compile(rf"(?:[^{_END}]|\[[0-9a-fA-F:.]{{2,45}}\]){{0,{_HOST}}}")
_REST = re.compile(r"[^\s\"'`<>)\]|]*")
_USUAL = re.compile(r"(?:[^\W_]|[._-])+|\[[0-9a-fA-F:.]+\]")
_PORT = re.compile(r":[0-9]{0,5}$")
_AFTER = ".,;:!*_~"
"""Punctuation of the text, not of the URL at whose end it is."""


def url_width(check: UrlAllowlistCheck) -> int:
    """The most characters of a match: without the URL's path, unless all of it is replaced."""
    return _BEFORE_HOST + _HOST + (_PATH if check.action == "replace" else 0)


class UrlRule:
    """The URLs whose host is not on a list."""

    shows = True
    size = 0
    effort = 600
    """Our own pattern does not count."""

    def __init__(self, check: UrlAllowlistCheck) -> None:
        access = NetworkAccess(allowed=check.hosts)
        try:
            check_network(access)
        except InvalidInput as error:
            message = error.message.replace("network_access.allowed", "hosts")
            raise InvalidInput(message, field="hosts") from None
        self._rules = combine([access]) if check.hosts else None
        self._path = _PATH if check.action == "replace" else 0
        self._regex = compile_re2(_BEFORE, ignore_case=True)

    def find(
        self, subject: Subject, start: int, expired: Callable[[], bool]
    ) -> Iterator[tuple[int, int, str | None]]:
        """Find the URLs that are not allowed."""
        plain = subject.plain
        at = plain.byte(start)
        while not expired():
            match = self._regex.search(plain.data, at)
            if match is None:
                return
            begin, end = plain.char(match.start()), plain.char(match.end())
            at_host = begin if plain.text[begin : begin + 4].lower() == "www." else end
            end = _end(_HOSTS, plain.text, at_host, at_host + _HOST)
            host = plain.text[at_host:end]
            if host.strip(_AFTER) and not self._allows(host):
                yield begin, _end(_REST, plain.text, end, end + self._path), None
            at = max(plain.byte(end), match.start() + 1)
        raise TimeoutError

    def _allows(self, written: str) -> bool:
        if self._rules is None or len(written) >= _HOST:
            return False
        host = unquote(written.replace("\0", "")).rpartition("@")[2].rstrip(_AFTER)
        host = _PORT.sub("", host).rstrip(_AFTER)
        return _USUAL.fullmatch(host) is not None and self._rules.permits(host)


def _end(pattern: re.Pattern[str], text: str, begin: int, limit: int) -> int:
    """Where a pattern that begins in a place ends, before the limit."""
    match = pattern.match(text, begin, limit)
    return begin if match is None else match.end()
