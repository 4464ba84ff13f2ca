"""The stateless revision (2026-07-28): every request says everything, and there is no session."""

from __future__ import annotations

from collections.abc import Mapping

import perdure
from perdure.domain.mcp import McpAnswers
from perdure.domain.mcp_results import elicitation_capability
from perdure.domain.mcp_servers import ElicitationPolicy
from perdure.domain.mcp_wire import META, STATELESS, client_info, header_value, request
from perdure.domain.messages import JsonObject
from perdure.net.mcp.http import MAX_ANSWER, Http, Remote, Unreadable
from perdure.net.mcp.rounds import Round

_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def with_meta(params: JsonObject, policy: ElicitationPolicy, *, token: int | None = None) -> JsonObject:
    """The parameters with what every request of this revision says."""
    meta: JsonObject = {
        **params.get("_meta", {}),
        META + "protocolVersion": STATELESS,
        META + "clientCapabilities": elicitation_capability(policy),
        META + "clientInfo": client_info(perdure.__version__),
    }
    if token is not None:
        meta["progressToken"] = token
    return {**params, "_meta": meta}


def with_answers(params: JsonObject, answers: McpAnswers | None) -> JsonObject:
    """The parameters of a call that was made before, with what its questions were answered."""
    if answers is None:
        return params
    params = dict(params)
    if answers.responses:
        params["inputResponses"] = answers.responses
    if answers.state is not None:
        params["requestState"] = answers.state
    return params


def headers_of(method: str, params: JsonObject, extra: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request; `extra` are those that the caller adds."""
    headers = {
        **extra,
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": STATELESS,
        "Mcp-Method": method,
    }
    named = params.get(_NAMED_BY.get(method, ""))
    if isinstance(named, str):
        headers["Mcp-Name"] = header_value(named)
    return headers


async def ask(
    http: Http,
    remote: Remote,
    turn: Round,
    key: int,
    method: str,
    params: JsonObject,
    extra: Mapping[str, str],
    *,
    token: bool = False,
    max_bytes: int = MAX_ANSWER,
) -> JsonObject:
    """Send a request and return its result.

    Args:
        turn: takes what arrives until the response.
        key: the request's id.
        token: whether to ask for progress.

    Raises:
        McpRefused: the server answered with a JSON-RPC error.
        McpUnauthorized: it wants a sign-in.
        Refused: it answered with another status than 2xx, and what it says is about HTTP.
        Broken: there is no answer.
    """
    params = with_meta(params, remote.endpoint.elicitation, token=key if token else None)
    headers = headers_of(method, params, extra)
    body = request(key, method, params)
    async with http.exchange(
        remote, headers, body, max_bytes=max_bytes, mark=turn, once=method == "tools/call"
    ) as reply:
        await reply.accepted()
        result = await turn.response(reply.messages())
        if result is None:
            raise Unreadable(f"{remote.name} ended its answer before the response", sent=True)
        return result
