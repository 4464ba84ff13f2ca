"""The methods of the protocol: what a request's result is, in the form of its era."""

from __future__ import annotations

import logging
from functools import cached_property

import msgspec

from perdure import __version__
from perdure.api.kernel.problems import retry_seconds
from perdure.domain.errors import PerdureError
from perdure.domain.messages import JsonObject
from perdure.doors.mcp.agent_tools import agent_tool, agent_tools
from perdure.doors.mcp.requests import (
    HANDSHAKE,
    INTERNAL,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    SERVER_KEY,
    STATELESS,
    Refusal,
    Request,
)
from perdure.doors.mcp.tool import Tool, Visit
from perdure.doors.mcp.tools import general_tools
from perdure.store.faults import system_fault

log = logging.getLogger("perdure.mcp")

INSTRUCTIONS = (
    "Perdure runs agents in sessions that outlive this connection. start_session begins one and send_message "
    "continues it; both wait for the answer for a while. If the status is `active` then, the agent still "
    "works: call read_answer with `wait_seconds`. If there are `approvals`, ask the user, decide with "
    "decide_approval, and call read_answer. If there are `input_requests`, tell the user where to go, and "
    "call read_answer when that is done. If there are `questions`, ask the user, and answer with "
    "answer_questions."
)
_SERVER = {"name": "perdure", "title": "Perdure", "version": __version__}
_CAPABILITIES: JsonObject = {"tools": {}}


class Methods:
    """Answers requests."""

    @cached_property
    def _tools(self) -> dict[str, Tool]:
        """The tools that every caller has, from the first request on: an idle server does not hold them."""
        return {each.name: each for each in general_tools()}

    async def answer(self, request: Request, visit: Visit) -> JsonObject:
        """Return the result of a request. Raises Refusal."""
        try:
            return _in_era(request, await self._result(request, visit))
        except PerdureError as error:  # of `tools/list`; tools report theirs to the model
            raise Refusal(INTERNAL, f"{error.code}: {error.message}", status=200, id=request.id) from None
        except Refusal:
            raise
        except Exception as error:
            if (fault := system_fault(error)) is not None:
                log.warning("%s failed: %s", request.method, fault.message)
                message = f"{fault.code}: {fault.message}"
            else:
                log.exception("%s failed", request.method)
                message = "internal error: the details are in the server's log"
            raise Refusal(INTERNAL, message, status=200, id=request.id) from None

    async def _result(self, request: Request, visit: Visit) -> JsonObject:
        match request.method, request.stateless:
            case "initialize", False:
                return _initialized(request)
            case "ping", False:
                return {}
            case "server/discover", True:
                return {
                    "supportedVersions": [STATELESS],
                    "capabilities": _CAPABILITIES,
                    "instructions": INSTRUCTIONS,
                }
            case "tools/list", _:
                return await self._list(request, visit)
            case "tools/call", _:
                return await self._call(request, visit)
        raise Refusal(
            METHOD_NOT_FOUND,
            f"this server has no method {request.method[:80]!r}",
            status=404 if request.stateless else 200,
            id=request.id,
        )

    async def _list(self, request: Request, visit: Visit) -> JsonObject:
        if request.params.get("cursor") is not None:
            raise _wrong(request, "`cursor` is not one of this server's: its lists have one page")
        tools = [*self._tools.values(), *await agent_tools(visit)]
        return {"tools": [each.definition for each in tools]}

    async def _call(self, request: Request, visit: Visit) -> JsonObject:
        name, arguments = request.params.get("name"), request.params.get("arguments")
        if not isinstance(name, str):
            raise _wrong(request, "`name` must be the name of a tool")
        if arguments is not None and not isinstance(arguments, dict):
            raise _wrong(request, "`arguments` must be an object")
        found = self._tools.get(name) or await agent_tool(visit, name)
        if found is None:
            raise _wrong(request, f"no tool is named {name[:80]!r}: tools/list has the names")
        try:
            result = msgspec.to_builtins(await found.call(visit, arguments or {}))
        except PerdureError as error:
            return {"content": [_text(_told(error))], "isError": True}
        text = msgspec.json.encode(result).decode()
        return {"content": [_text(text)], "structuredContent": result, "isError": False}


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _told(error: PerdureError) -> str:
    """What the model is told about an error."""
    seconds = retry_seconds(error)
    return f"{error.code}: {error.message}" + (f" (again after {seconds} s)" if seconds is not None else "")


def _wrong(request: Request, message: str) -> Refusal:
    return Refusal(INVALID_PARAMS, message, status=400 if request.stateless else 200, id=request.id)


def _initialized(request: Request) -> JsonObject:
    """Answer the handshake: with the client's revision, or else the newest that has a handshake."""
    version = request.params.get("protocolVersion")
    if not isinstance(version, str):
        raise _wrong(request, "`protocolVersion` must be the revision that the client speaks")
    return {
        "protocolVersion": version if version in HANDSHAKE else HANDSHAKE[-1],
        "capabilities": _CAPABILITIES,
        "serverInfo": _SERVER,
        "instructions": INSTRUCTIONS,
    }


_KEPT = ("server/discover", "tools/list")
"""Methods whose results say how long they may be kept: not at all, because agents may change."""


def _in_era(request: Request, result: JsonObject) -> JsonObject:
    """Add what the stateless era has in every result."""
    if not request.stateless:
        return result
    kept: JsonObject = {"ttlMs": 0, "cacheScope": "private"} if request.method in _KEPT else {}
    return {"resultType": "complete", **result, **kept, "_meta": {SERVER_KEY: _SERVER}}


def result_bytes(request: Request, result: JsonObject) -> bytes:
    """Encode the response with this result."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request.id, "result": result})


def error_bytes(refusal: Refusal) -> bytes:
    """Encode the response with this error."""
    error: JsonObject = {"code": refusal.code, "message": refusal.message}
    if refusal.data is not None:
        error["data"] = refusal.data
    return msgspec.json.encode({"jsonrpc": "2.0", "id": refusal.id, "error": error})
