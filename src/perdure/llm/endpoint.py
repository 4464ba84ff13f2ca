"""A provider's address, credentials and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from multidict import CIMultiDict
from yarl import URL

from perdure.domain.errors import InvalidInput, ModelError
from perdure.llm.base_urls import is_near
from perdure.llm.failures import redacted
from perdure.net.addresses import is_refused_host

_VERSION = "api-version"
"""The parameter of a query that is no secret."""


class Signing(Protocol):
    """What signs requests."""

    def headers(self, method: str, url: URL, body: bytes) -> dict[str, str]:
        """Return the headers that sign this request."""
        ...


class Endpoint:
    """A driver's base URL, credentials and headers.

    Attributes:
        base: the base URL, without a trailing slash.
        other: another form of it, to try if the server does not have the first, or None.
        host: its host name, in lower case.
        near: whether the host is this machine or in a private network.
        timeout: the provider's own maximum of seconds between bytes, or None.
    """

    __slots__ = ("_headers", "_query", "_secrets", "_signer", "base", "host", "near", "other", "timeout")

    def __init__(
        self,
        base: str,
        credentials: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        other: str | None = None,
        timeout: object = None,
        *,
        signer: Signing | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        """Validate the URL and the headers.

        Args:
            base: an `http` or `https` URL; its query, if any, is sent with every call.
            credentials: header -> secret value. Secrets are redacted in every error.
            headers: additional headers; their values count as secrets too.
            other: another form of `base`, at the same host.
            timeout: maximum seconds between bytes.
            signer: signs each request.
            secrets: more values that must not appear in an error.

        Raises:
            InvalidInput: the URL, or a header's name or value, is invalid.
        """
        url = _checked_url(base)
        self.host = (url.host or "").lower()
        self._query = url.query_string
        self.base = _without_query(base)
        self.other = None if other is None else _without_query(other)
        self.near = is_near(self.host)
        self.timeout = float(timeout) if isinstance(timeout, int | float) else None
        all_headers = _checked_headers(url, credentials, headers or {})
        self._headers = CIMultiDict(
            {
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "perdure",
                **all_headers,
            }
        )
        self._signer = signer
        values = [*secrets, *(value.removeprefix("Bearer ") for value in all_headers.values())]
        values += [url.password or "", *(value for name, value in url.query.items() if name != _VERSION)]
        # Short values ("beta", "1") are no secrets, and redacting them would garble the text.
        self._secrets = tuple(
            sorted({secret for secret in values if len(secret) >= 6}, key=len, reverse=True)
        )

    def url(self, path: str, query: Mapping[str, str] | None = None, base: str | None = None) -> URL:
        """Return the URL of `path` under the base, or another base.

        The path begins with a slash, and is encoded.
        """
        url = URL(base or self.base).joinpath(path[1:], encoded=True)
        if self._query:
            url = url.with_query(self._query)
        return url.update_query(query) if query else url

    def headers(self, method: str, url: URL, body: bytes = b"") -> Mapping[str, str]:
        """Return the headers of a request. Do not modify."""
        if self._signer is None:
            return self._headers
        return CIMultiDict({**self._headers, **self._signer.headers(method, url, body)})

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not appear in an error, longest first."""
        return self._secrets

    def clean(self, error: ModelError) -> ModelError:
        """Return the error with all secrets in its message redacted."""
        text = redacted(error.message, self._secrets)
        if text == error.message:
            return error
        return error.saying(text)


def _checked_url(base: str) -> URL:
    try:
        url = URL(base)
        usable = url.scheme in {"http", "https"} and bool(url.host)
    except ValueError:
        usable, url = False, URL()
    if not usable:
        raise InvalidInput("`base_url` must be an http or https URL", field="base_url")
    if is_refused_host((url.host or "").lower()):
        raise InvalidInput(
            "`base_url` is the address of a cloud's metadata service; use a model server's address",
            field="base_url",
        )
    return url


def _checked_headers(url: URL, credentials: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, str]:
    duplicates = {name.lower() for name in credentials} & {name.lower() for name in headers}
    if duplicates:
        raise InvalidInput(
            f"both `api_key` and `headers` set the header {duplicates.pop()!r}: remove one of them",
            field="options.headers",
        )
    all_headers = {**credentials, **headers}
    if url.user is not None and any(name.lower() == "authorization" for name in all_headers):
        raise InvalidInput(
            "both `base_url` and a header contain credentials: remove one of them", field="base_url"
        )
    for name, value in all_headers.items():
        if not (name.isascii() and value.isascii() and value.isprintable() and name.isprintable()):
            raise InvalidInput(
                "an API key or header contains characters that HTTP does not allow: use printable ASCII",
                field="api_key",
            )
    return all_headers


def _without_query(base: str) -> str:
    return str(URL(base).with_query(None).with_fragment(None)).rstrip("/")
