"""What the rest of Perdure asks of MCP servers, whichever way they are reached."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from aiohttp.abc import AbstractResolver

from perdure.domain import mcp_results as results
from perdure.domain import mcp_wire as wire
from perdure.domain.backoff import backoff
from perdure.domain.mcp import (
    McpAnswers,
    McpContent,
    McpInputRequired,
    McpLost,
    McpOffer,
    McpPrompt,
    McpPromptMessage,
    McpRefused,
    McpResource,
    McpTool,
    McpUnreachable,
)
from perdure.domain.mcp_skills import MAX_SKILLS, McpSkill, skills_of
from perdure.domain.mcp_wire import Malformed
from perdure.domain.messages import JsonObject, JsonValue
from perdure.net.mcp.desk import UserAsked
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.net.mcp.http import Broken, Refused, fit_headers
from perdure.net.mcp.over_http import OverHttp
from perdure.net.mcp.over_stdio import OverStdio
from perdure.net.mcp.requests import Line, Spoken, Wanted
from perdure.net.mcp.rounds import Progress, TooManyRequests, refused

MAX_PAGES = 20
MAX_PAGE = 4 << 20
"""Bytes of one page of a list."""
MAX_CURSOR = 8_192
FEW_TOOLS = 10
MAX_ROUNDS = 10
"""How often a call goes on at once because its server wants only its own state back."""
_LISTING = ""
"""The scope of lists: no session's calls share a session of the protocol with them."""
MAX_TRIES = 3
"""How often a call is sent that has not run, or is idempotent."""
_GATEWAY = frozenset({502, 503, 504})


class McpHosts:
    """All MCP servers that this process talks to. Create one per process.

    Nothing is opened before it is used. A call is sent again only if it has not run, or is idempotent.

    Args:
        resolver: resolves names; the system's resolver by default.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._http = OverHttp(resolver)
        self._stdio = OverStdio()

    async def offer(self, endpoint: McpEndpoint | McpStdioEndpoint, *, timeout: float) -> McpOffer:
        """List what a server offers.

        Args:
            timeout: seconds for everything.

        Raises:
            McpUnreachable, McpRefused, McpUnauthorized: the server cannot be used.
        """
        line = self._line(endpoint)
        with _failures(line, safe=True, timeout=timeout):
            async with asyncio.timeout(timeout):
                spoken = await line.spoken(_LISTING)
                found, ttl = await self._tools(line, spoken)
                skills = await self._skills_or_fault(line, spoken, found)
        name = spoken.info.name or line.name
        return McpOffer(
            spoken.era,
            spoken.protocol,
            name,
            spoken.info.version,
            spoken.info.instructions,
            found.tools,
            spoken.info.has_resources,
            spoken.info.has_prompts,
            ttl,
            found.faults,
            skills,
        )

    async def _tools(self, line: Line, spoken: Spoken) -> tuple[results.ToolList, float | None]:
        found = results.ToolList()
        ttl: float | None = None
        try:
            async for page, fault in self._pages(line, _LISTING, "tools/list"):
                await _taken(found, page.get("tools"))
                ttl = results.ttl_of(page) if ttl is None else ttl
                if fault:
                    found.fault(fault)
        except (McpRefused, Refused) as error:
            if _code(error) != wire.METHOD_NOT_FOUND or spoken.info.has_tools:
                raise
        return found, ttl

    async def _pages(self, line: Line, scope: str, method: str) -> AsyncIterator[tuple[JsonObject, str]]:
        """The pages of a list, each with why it is the last one if there are more."""
        cursor: str | None = None
        seen: set[str] = set()
        for count in range(1, MAX_PAGES + 1):
            params: JsonObject = {} if cursor is None else {"cursor": cursor}
            page = await line.ask(scope, Wanted(method, params, max_bytes=MAX_PAGE))
            following = page.get("nextCursor")
            if not isinstance(following, str) or (not following and cursor == following):
                yield page, ""
                return
            fault = ""
            if len(following) > MAX_CURSOR or following in seen:
                fault = "the list does not end: a page names one that was read before"
            elif count == MAX_PAGES:
                fault = f"the list has more than {MAX_PAGES} pages: the rest was left out"
            yield page, fault
            if fault:
                return
            seen.add(following)
            cursor = following

    async def call(
        self,
        endpoint: McpEndpoint | McpStdioEndpoint,
        *,
        scope: str,
        tool: McpTool,
        arguments: JsonObject,
        meta: JsonObject,
        extra_headers: Mapping[str, str],
        timeout: float,
        idempotent: bool,
        progress: Callable[[str], None],
        answers: McpAnswers | None = None,
    ) -> McpContent | McpInputRequired:
        """Call a tool.

        Args:
            scope: whose call it is. No other scope shares a session of the protocol with it.
            meta: goes into the `_meta` of the call.
            extra_headers: headers of this call.
            timeout: seconds for everything.
            idempotent: whether the call may be sent again if its answer is lost.
            progress: takes lines that say how far the server is.
            answers: what users have answered, if the call was made before and asked them.

        Raises:
            McpUnreachable: the call has not run, or is idempotent: a retry is safe.
            McpLost: nobody knows whether it has run.
            McpRefused: the server answered with an error.
            McpUnauthorized: the server wants a sign-in.
        """
        line = self._line(endpoint)
        wanted = Wanted(
            "tools/call",
            {"name": tool.name, "arguments": arguments, **({"_meta": meta} if meta else {})},
            _headers(tool, arguments, extra_headers),
            Progress(progress),
            answers,
            idempotent=idempotent,
        )
        with _failures(line, safe=idempotent, timeout=timeout, wanted=wanted):
            async with asyncio.timeout(timeout):
                try:
                    return await self._call(line, scope, tool, wanted, idempotent=idempotent)
                except UserAsked as asked:
                    return asked.required

    async def _call(
        self, line: Line, scope: str, tool: McpTool, wanted: Wanted, *, idempotent: bool
    ) -> McpContent | McpInputRequired:
        for count in range(1, MAX_ROUNDS + 1):
            try:
                result = await self._once(line, scope, tool, wanted, idempotent=idempotent)
            except McpRefused as error:
                if error.rpc_code == wire.URL_ELICITATION:
                    return results.url_questions(error.data, line.policy)
                raise
            kind = result.get("resultType", "complete")
            stateless = wanted.era == "stateless"
            if not stateless or kind == "complete":
                return results.content_of(result, any_structure=stateless)
            if kind != "input_required":
                raise Malformed(f"its result is of the unknown type {wire.text_in(kind, 40)!r}")
            required = results.input_required(result, line.policy)
            if required.requests:
                return required
            wanted.answers = McpAnswers({}, required.state)
            await asyncio.sleep(min(0.05 * count, 0.25))
        raise Malformed(f"it went on {MAX_ROUNDS} times without a result")

    async def _once(
        self, line: Line, scope: str, tool: McpTool, wanted: Wanted, *, idempotent: bool
    ) -> JsonObject:
        """Send a call. It is sent again only if it has not run, or is idempotent."""
        checked = False
        for failures in range(1, MAX_TRIES + 1):
            try:
                return await line.ask(scope, wanted)
            except (McpRefused, Refused) as error:
                if _code(error) == wire.HEADER_MISMATCH and not checked:
                    # The list said which arguments headers repeat, and the server refuses it: it has not run.
                    checked = True
                    headers = await self._other_headers(line, tool, wanted)
                    if headers is None:
                        raise
                    wanted.extra = headers
                elif not idempotent or not _may_pass(error):
                    raise
            except Broken as error:
                if error.sent and not idempotent:
                    raise
                if failures == MAX_TRIES:
                    raise
            await asyncio.sleep(backoff(failures, first=0.2, most=1.0))
        return await line.ask(scope, wanted)

    async def _other_headers(self, line: Line, tool: McpTool, wanted: Wanted) -> dict[str, str] | None:
        """The headers of a call as the server's list wants them now; None if they are the same."""
        if wanted.turn is not None:
            wanted.turn.sent = False
        found, _ = await self._tools(line, await line.spoken(_LISTING))
        now = next((each for each in found.tools if each.name == tool.name), None)
        if now is None or now.header_arguments == tool.header_arguments:
            return None
        old = {header for _, header in tool.header_arguments}
        kept = {name: value for name, value in wanted.extra.items() if name not in old}
        return _headers(now, wanted.params["arguments"], kept)

    # --- resources, skills and prompts

    async def list_skills(
        self, endpoint: McpEndpoint | McpStdioEndpoint, *, scope: str, timeout: float
    ) -> tuple[McpSkill, ...]:
        """List a server's skills: none if it does not have the extension. Raises as `offer` does."""
        line = self._line(endpoint)
        with _failures(line, safe=True, timeout=timeout):
            async with asyncio.timeout(timeout):
                return await self._skills(line, scope, await line.spoken(scope))

    async def _skills(self, line: Line, scope: str, spoken: Spoken) -> tuple[McpSkill, ...]:
        found: list[McpSkill] = []
        if spoken.info.has_skills:
            async for page, _ in self._pages(line, scope, "skills/list"):
                found += skills_of(page.get("skills"))
        return tuple(found[:MAX_SKILLS])

    async def _skills_or_fault(
        self, line: Line, spoken: Spoken, tools: results.ToolList
    ) -> tuple[McpSkill, ...]:
        """The skills of a server; without them, its tools are still of use."""
        try:
            return await self._skills(line, _LISTING, spoken)
        except (McpRefused, Refused, Malformed) as error:
            tools.fault(f"its skills cannot be listed: {error}")
            return ()

    async def list_resources(
        self, endpoint: McpEndpoint | McpStdioEndpoint, *, scope: str, timeout: float
    ) -> tuple[McpResource, ...]:
        """List a server's resources. Raises as `offer` does."""
        line = self._line(endpoint)
        found: list[McpResource] = []
        with _failures(line, safe=True, timeout=timeout):
            async with asyncio.timeout(timeout):
                async for page, _ in self._pages(line, scope, "resources/list"):
                    found += results.resources_of(page.get("resources"))
        return tuple(found[: results.MAX_LISTED])

    async def read_resource(
        self, endpoint: McpEndpoint | McpStdioEndpoint, *, scope: str, uri: str, timeout: float
    ) -> McpContent:
        """Read a resource, as blocks of the type `resource`. Raises as `offer` does."""
        result = await self._read(endpoint, scope, "resources/read", {"uri": uri}, timeout)
        with _failures(self._line(endpoint), safe=True, timeout=timeout):
            return results.resource_contents(result)

    async def list_prompts(
        self, endpoint: McpEndpoint | McpStdioEndpoint, *, scope: str, timeout: float
    ) -> tuple[McpPrompt, ...]:
        """List a server's prompts. Raises as `offer` does."""
        line = self._line(endpoint)
        found: list[McpPrompt] = []
        with _failures(line, safe=True, timeout=timeout):
            async with asyncio.timeout(timeout):
                async for page, _ in self._pages(line, scope, "prompts/list"):
                    found += results.prompts_of(page.get("prompts"))
        return tuple(found[: results.MAX_LISTED])

    async def get_prompt(
        self,
        endpoint: McpEndpoint | McpStdioEndpoint,
        *,
        scope: str,
        name: str,
        arguments: Mapping[str, str],
        timeout: float,
    ) -> tuple[McpPromptMessage, ...]:
        """Get the messages of a prompt. Raises as `offer` does."""
        params: JsonObject = {"name": name, "arguments": dict(arguments)}
        result = await self._read(endpoint, scope, "prompts/get", params, timeout)
        with _failures(self._line(endpoint), safe=True, timeout=timeout):
            return results.prompt_messages(result)

    async def _read(
        self,
        endpoint: McpEndpoint | McpStdioEndpoint,
        scope: str,
        method: str,
        params: JsonObject,
        timeout: float,
    ) -> JsonObject:
        line = self._line(endpoint)
        with _failures(line, safe=True, timeout=timeout):
            async with asyncio.timeout(timeout):
                result = await line.ask(scope, Wanted(method, params))
                if result.get("resultType", "complete") != "complete":
                    raise Malformed("it asks the user, which only calls of tools may")
                return result

    # --- ends

    @property
    def quiet(self) -> bool:
        """Whether `changes` is 0 for all servers."""
        return self._http.quiet and self._stdio.quiet

    def changes(self, endpoint: McpEndpoint | McpStdioEndpoint) -> int:
        """How often the server's tools may have changed: if it has grown, the offer is stale."""
        if isinstance(endpoint, McpStdioEndpoint):
            return self._stdio.changes(endpoint)
        return self._http.changes(endpoint)

    def forget(self, scope: str) -> None:
        """End the sessions of the protocol that belong to a scope."""
        self._http.forget(scope)
        self._stdio.forget(scope)

    async def close(self) -> None:
        """End all sessions and local commands, and close all connections."""
        await asyncio.gather(self._http.close(), self._stdio.close())

    def _line(self, endpoint: McpEndpoint | McpStdioEndpoint) -> Line:
        if isinstance(endpoint, McpStdioEndpoint):
            return self._stdio.line(endpoint)
        return self._http.line(endpoint)


async def _taken(found: results.ToolList, listed: JsonValue) -> None:
    """Read a page of tools, a long one in a thread. Raises Malformed."""
    if isinstance(listed, list) and len(listed) > FEW_TOOLS:
        await asyncio.to_thread(found.take, listed)
    else:
        found.take(listed)


def _code(error: McpRefused | Refused) -> int:
    """The code of a JSON-RPC error; 0 if there is none."""
    if isinstance(error, McpRefused):
        return error.rpc_code
    return 0 if error.error is None else error.error.code


def _may_pass(error: McpRefused | Refused) -> bool:
    """Whether a gateway says that the server does not answer just now."""
    return isinstance(error, Refused) and error.status in _GATEWAY and error.error is None


def _headers(tool: McpTool, arguments: JsonObject, extra: Mapping[str, str]) -> dict[str, str]:
    """The headers of a call; those of the caller cannot replace those of the protocol."""
    return {**dict(fit_headers(extra.items())), **wire.argument_headers(tool.header_arguments, arguments)}


@contextlib.contextmanager
def _failures(line: Line, *, safe: bool, timeout: float, wanted: Wanted | None = None) -> Iterator[None]:
    """Turn what can go wrong into the errors that callers know.

    Args:
        safe: whether a retry is safe even if the request has run.
        wanted: a call: whether it was sent decides whether a retry is safe.
    """
    try:
        yield
    except TimeoutError:
        sent = not safe and wanted is not None and wanted.sent
        raise _lost(f"{line.name} did not answer within {timeout:g} seconds", sent=sent) from None
    except Broken as error:
        raise _lost(str(error), sent=error.sent and not safe) from None
    except Refused as error:
        if error.error is not None:
            raise refused(error.error, line.clean) from None
        if error.status >= 500 and not safe and wanted is not None and wanted.sent:
            raise _lost(str(error), sent=True) from None
        raise McpUnreachable(f"the MCP server {error}", retry_after=error.retry_after) from None
    except UserAsked:
        raise _lost(f"{line.name} asks the user, which only calls of tools may", sent=False) from None
    except Malformed as error:
        said = f"{line.name} gave an answer that cannot be read: {line.clean(str(error))}"
        raise _lost(said, sent=not safe) from None
    except TooManyRequests:
        raise _lost(f"{line.name} asks endlessly instead of answering", sent=not safe) from None


def _lost(said: str, *, sent: bool) -> McpLost | McpUnreachable:
    if sent:
        return McpLost(f"the answer of the MCP server was lost: {said}. The call may have taken effect")
    return McpUnreachable(f"the MCP server {said}")
