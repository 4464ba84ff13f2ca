"""Sign requests to AWS: Signature Version 4, in headers."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import quote

from msgspec import Struct
from yarl import URL

_ALGORITHM = "AWS4-HMAC-SHA256"
_KEY = re.compile(r"(A(?:KIA|SIA)[A-Z0-9]{12,124}):([^:\s]{16,256})(?::([^:\s]{16,3800}))?")
_SAFE = "-_.~"


class AwsKey(Struct, frozen=True):
    """An access key; temporary ones have a session token."""

    key_id: str
    secret: str
    token: str | None = None


def aws_key(text: str) -> AwsKey | None:
    """Return the access key in `KEY_ID:SECRET` or `KEY_ID:SECRET:SESSION_TOKEN`; None for any other text."""
    match = _KEY.fullmatch(text)
    return None if match is None else AwsKey(match[1], match[2], match[3])


class Signer:
    """Signs the requests of one service in one region.

    Args:
        key: the access key.
        region: the region, such as `us-east-1`.
        service: the service's name in signatures.
        clock: the current Unix time, in seconds.
    """

    def __init__(
        self, key: AwsKey, region: str, service: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._region = region
        self._service = service
        self._clock = clock

    def headers(self, method: str, url: URL, body: bytes) -> dict[str, str]:
        """Return the headers that sign this request."""
        now = time.gmtime(self._clock())
        moment, day = time.strftime("%Y%m%dT%H%M%SZ", now), time.strftime("%Y%m%d", now)
        host = url.raw_host or ""
        signed = {"host": host if url.is_default_port() else f"{host}:{url.port}", "x-amz-date": moment}
        if self._key.token is not None:
            signed["x-amz-security-token"] = self._key.token
        names = ";".join(signed)
        # Paths are encoded once more, also what is encoded already.
        path = quote(url.raw_path or "/", safe=f"/{_SAFE}")
        pairs = sorted(
            (quote(name, safe=_SAFE), quote(value, safe=_SAFE)) for name, value in url.query.items()
        )
        request = "\n".join(
            (
                method,
                path,
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{value}" for name, value in signed.items()),
                "",
                names,
                sha256(body).hexdigest(),
            )
        )
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        text = "\n".join((_ALGORITHM, moment, scope, sha256(request.encode()).hexdigest()))
        key = f"AWS4{self._key.secret}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        del signed["host"]
        parts = f"Credential={self._key.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {**signed, "authorization": f"{_ALGORITHM} {parts}"}
