"""What tools from files and plug-ins may use: the context of a call, with the session's own services.

The implementations are in `tools/own_services.py`, above the use cases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from perdure.capabilities.port import ToolContext
from perdure.domain.http_answers import HttpAnswer


class FileFacts(Struct, frozen=True):
    """A file or folder of the session.

    Attributes:
        size: in bytes; 0 for a folder.
        hash: the SHA-256 of the content, in hex; empty for a folder.
    """

    path: str
    is_folder: bool
    size: int
    hash: str


class Files(Protocol):
    """The session's files. Paths are absolute, such as `/reports/june.csv`.

    Secrets of the session are blanked in texts that are written.
    """

    async def read(self, path: str) -> bytes:
        """Read a file. Raises NotFound, and InvalidInput for a folder."""
        ...

    async def read_text(self, path: str) -> str:
        """Read a file of UTF-8 text. Raises NotFound, and ToolError if it is not text."""
        ...

    async def write(self, path: str, content: str | bytes) -> None:
        """Write a file, replacing its content, and create its folders. Raises TooLarge, Forbidden."""
        ...

    async def delete(self, path: str, *, recursive: bool = False) -> bool:
        """Delete a file or folder; returns whether it existed. A full folder needs `recursive`."""
        ...

    async def exists(self, path: str) -> bool:
        """Whether there is a file or folder at this path."""
        ...

    async def list(self, folder: str = "/", *, recursive: bool = False) -> list[FileFacts]:
        """List a folder's contents, sorted by path. Raises NotFound, and Conflict for a file."""
        ...


class Storage(Protocol):
    """The session's key-value pairs: small texts that last as long as the session.

    Secrets of the session are blanked in values.
    """

    async def get(self, key: str) -> str | None:
        """Read a value; None if the key does not exist."""
        ...

    async def set(self, key: str, value: str) -> None:
        """Store a value, replacing any previous one. Raises InvalidInput: over a limit."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete a key; returns whether it existed."""
        ...

    async def list(self) -> list[str]:
        """List the keys, sorted."""
        ...


class SessionFacts(Struct, frozen=True):
    """What is known about the session."""

    id: str
    title: str | None
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    locale: str | None


class OwnSession(Protocol):
    """The session that the call belongs to."""

    async def read(self) -> SessionFacts:
        """Read the session's title, tags and metadata as they are now."""
        ...

    async def update(
        self,
        *,
        title: str | None = None,
        tags: tuple[str, ...] | list[str] | None = None,
        metadata: Mapping[str, str | None] | None = None,
    ) -> None:
        """Change the session. What is None stays.

        Args:
            tags: all tags that the session then has.
            metadata: the entries to change; an entry with None is removed.

        Raises:
            InvalidInput: a value breaks the rules of the API.
        """
        ...


class Http(Protocol):
    """Requests to the hosts that the session may reach (`network_access`), with checked addresses.

    Raises ToolError: the host is not allowed, or does not answer in time. GET and HEAD follow redirects; to
    another origin, without `headers` and the body. Other requests carry a key as `Idempotency-Key`, unless
    `headers` has another one: in a step the step's, `effect(name)`, else the call's. Further requests of the
    same step or call have keys derived from it by their number, the same after a crash. One that is repeated,
    because it got no answer or one that says so (408, 409, 425, 429 or from 500), keeps its key. What
    `verify` sends has none.
    """

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        content: str | bytes | None = None,
        timeout: float = 30.0,
        max_bytes: int = 10_000_000,
    ) -> HttpAnswer:
        """Send a request, and read the answer.

        Args:
            params: added to the URL's query.
            json: a value to send as JSON, instead of `content`.
            timeout: seconds for everything.
            max_bytes: bytes of the answer, after decompression; ToolError if it has more.
        """
        ...

    async def get(self, url: str, **options: Any) -> HttpAnswer:
        """Send a GET request; the options are those of `request`."""
        ...

    async def post(self, url: str, **options: Any) -> HttpAnswer:
        """Send a POST request; the options are those of `request`."""
        ...


class Context(ToolContext, frozen=True, kw_only=True):
    """The context of a call, as tools from files and plug-ins receive it: all of it is the session's own.

    Attributes:
        secret: reads a secret of the session, by name. Raises NotFound. From then on, its value is blanked
            in everything that the session logs and shows. Each read is noted in the server's log.
        files: the session's files.
        storage: the session's key-value pairs.
        session: the session's title, tags and metadata.
        http: requests to the hosts that the session may reach.
    """

    secret: Callable[[str], Awaitable[str]]
    files: Files
    storage: Storage
    session: OwnSession
    http: Http
