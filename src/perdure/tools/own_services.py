"""The session's own services, for tools from files and plug-ins: they call the use cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perdure.app import session_files as files
from perdure.app.context import Services
from perdure.app.file_access import sized
from perdure.app.own_session import mark_own_session, read_own_session
from perdure.app.storage import all_values, put_value, read_secret, read_value, remove_value
from perdure.capabilities.port import (
    Capability,
    Discovered,
    DiscoveryContext,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    ToolRun,
    Verify,
)
from perdure.capabilities.tool_context import Context, FileFacts, SessionFacts
from perdure.domain.effects import IDEMPOTENCY_KEY, Verified
from perdure.domain.errors import ToolError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content, content_of
from perdure.domain.http_answers import HttpAnswer
from perdure.domain.messages import JsonObject
from perdure.domain.paths import clean_path
from perdure.domain.session_metadata import read_metadata
from perdure.domain.trace_context import trace_headers
from perdure.store.file_changes import FileWrite

if TYPE_CHECKING:
    from perdure.tools.request_keys import RequestKeys

log = logging.getLogger("perdure.secrets")


def with_own_services(services: Services, capability: Capability) -> Capability:
    """The capability, whose tools receive a `Context` instead of a `ToolContext`."""

    def tools(config: Any) -> tuple[Tool, ...]:
        return tuple(_bound(services, tool) for tool in capability.tools(config))

    discover = capability.discover
    if discover is None:
        return replace(capability, tools=tools)

    async def found(config: Any, context: DiscoveryContext) -> Discovered:
        discovered = await discover(config, context)
        return replace(discovered, tools=tuple(_bound(services, tool) for tool in discovered.tools))

    restore = capability.restore
    if restore is None:
        return replace(capability, tools=tools, discover=found)
    return replace(
        capability,
        tools=tools,
        discover=found,
        restore=lambda config, tool: _bound(services, restore(config, tool)),
    )


def _bound(services: Services, tool: Tool) -> Tool:
    verify = None if tool.verify is None else partial(_verify, services, tool.verify)
    return replace(tool, run=partial(_run, services, tool.run), verify=verify)


async def _run(
    services: Services, run: ToolRun, call: ToolContext, arguments: JsonObject
) -> ToolOutcome | Later:
    written: list[FileWrittenData] = []
    outcome = await run(_context(services, call, written), arguments)
    if isinstance(outcome, Later) or not written:
        return outcome
    return replace(outcome, files=(*outcome.files, *written))


async def _verify(services: Services, verify: Verify, call: ToolContext, arguments: JsonObject) -> Verified:
    return await verify(_context(services, call, []), arguments)


def _context(services: Services, call: ToolContext, written: list[FileWrittenData]) -> Context:
    """The context that the tool receives; its changes of files are added to `written`."""
    return Context(
        **{name: getattr(call, name) for name in ToolContext.__struct_fields__},
        secret=partial(_secret, services, call),
        files=_Files(services, call, written),
        storage=_Storage(services, call),
        session=_Session(services, call),
        http=_Http(call),
    )


async def _secret(services: Services, call: ToolContext, name: str) -> str:
    value = await read_secret(services, call, call.session_id, name)
    # The run knows the secrets of its beginning; this one may be newer.
    call.redactor.learn({name: value})
    log.info("session %s: the call %s has read the secret %s", call.session_id, call.tool_call_id, name)
    return value


def _without_secret(call: ToolContext, kind: str, name: str) -> str:
    """Return a name that lists show. Raises ToolError: it contains a secret, and cannot be blanked."""
    if call.redactor.text(name) is not name:
        raise ToolError(f"the {kind} contains a secret of the session: use another one")
    return name


class _Files:
    def __init__(self, services: Services, call: ToolContext, written: list[FileWrittenData]) -> None:
        self._services = services
        self._call = call
        self._written = written

    async def read(self, path: str) -> bytes:
        call = self._call
        _, data = await files.read_file(self._services, call, call.session_id, clean_path(path))
        return data

    async def read_text(self, path: str) -> str:
        data = await self.read(path)
        try:
            return await sized(len(data), data.decode)
        except UnicodeDecodeError:
            raise ToolError(f"{path} is not text") from None

    async def write(self, path: str, content: str | bytes) -> None:
        call, place = self._call, _without_secret(self._call, "path of the file", clean_path(path))
        blanked = await sized(len(content), self._blanked, content)
        written = await files.write_file(self._services, call, call.session_id, FileWrite(place, blanked))
        size = written.row.size_bytes
        self._written.append(FileWrittenData(written.row.path, "write", written.created, size))

    def _blanked(self, content: str | bytes) -> Content:
        if isinstance(content, str):
            return content_of(self._call.redactor.text(content).encode())
        made = content_of(content)
        if not made.is_text:
            return made
        text = content.decode()
        clean = self._call.redactor.text(text)
        return made if clean is text else content_of(clean.encode())

    async def delete(self, path: str, *, recursive: bool = False) -> bool:
        call, place = self._call, clean_path(path)
        deleted = await files.delete_path(
            self._services, call, call.session_id, place, recursive=recursive, expected=None
        )
        if deleted:
            self._written.append(FileWrittenData(place, "delete", False, 0))
        return deleted > 0

    async def exists(self, path: str) -> bool:
        call = self._call
        return await files.find_entry(self._services, call, call.session_id, clean_path(path)) is not None

    async def list(self, folder: str = "/", *, recursive: bool = False) -> list[FileFacts]:
        call = self._call
        rows = await files.list_entries(
            self._services, call, call.session_id, clean_path(folder), recursive=recursive
        )
        return [FileFacts(row.path, bool(row.is_directory), row.size_bytes, row.hash or "") for row in rows]


class _Storage:
    def __init__(self, services: Services, call: ToolContext) -> None:
        self._services = services
        self._call = call

    async def get(self, key: str) -> str | None:
        return await read_value(self._services, self._call, self._call.session_id, key)

    async def set(self, key: str, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(
                f"a stored value is a text, not {type(value).__name__}: encode it, as JSON for one"
            )
        name, clean = _without_secret(self._call, "key", key), self._call.redactor.text(value)
        await put_value(self._services, self._call, self._call.session_id, name, clean)

    async def delete(self, key: str) -> bool:
        return await remove_value(self._services, self._call, self._call.session_id, key)

    async def list(self) -> list[str]:
        batches = all_values(self._services, self._call, self._call.session_id)
        return [pair.key async for batch in batches for pair in batch]


class _Session:
    def __init__(self, services: Services, call: ToolContext) -> None:
        self._services = services
        self._call = call

    async def read(self) -> SessionFacts:
        row = await read_own_session(self._services, self._call, self._call.session_id)
        return SessionFacts(row.id, row.title, row.tag_list(), read_metadata(row.metadata), row.locale)

    async def update(
        self,
        *,
        title: str | None = None,
        tags: tuple[str, ...] | list[str] | None = None,
        metadata: Mapping[str, str | None] | None = None,
    ) -> None:
        clean = self._call.redactor.value
        await mark_own_session(
            self._services,
            self._call,
            self._call.session_id,
            title=clean(title),
            tags=None if tags is None else tuple(clean(list(tags))),
            metadata=None if metadata is None else clean(dict(metadata)),
        )


class _Http:
    def __init__(self, call: ToolContext) -> None:
        self._call = call
        self._keys: RequestKeys | None = None

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
        # Most servers have no such tools.
        from perdure.net.tool_http import OwnRequest, send
        from perdure.tools.request_keys import RequestKeys

        request = OwnRequest.of(method, url, params, headers, json, content)
        for name, value in trace_headers().items():
            request = request.with_default(name, value)
        keys = self._keys = self._keys or RequestKeys(self._call.effect_key)
        taken = keys.take(request)  # before anything is awaited: requests are numbered as they are made
        if taken is None:
            return await send(request, self._call.network, timeout=timeout, max_bytes=max_bytes)
        status: int | None = None
        try:
            answer = await send(
                request.with_default(IDEMPOTENCY_KEY, taken[1]),
                self._call.network,
                timeout=timeout,
                max_bytes=max_bytes,
            )
            status = answer.status
            return answer
        finally:
            keys.answered(request, taken, status)

    async def get(self, url: str, **options: Any) -> HttpAnswer:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> HttpAnswer:
        return await self.request("POST", url, **options)
