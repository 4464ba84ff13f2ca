"""Text from outside in a run's context: where it came from, and which calls it makes ask for approval."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.guards import source_of
from perdure.domain.actions import TurnRules
from perdure.domain.calls import Announced
from perdure.domain.data_flow import External
from perdure.domain.given_urls import is_given
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonValue
from perdure.domain.network import NetworkRules
from perdure.domain.projection import project
from perdure.domain.turn import Calling, TurnState
from perdure.engine.run import Run


def rules_ahead(run: Run, rules: TurnRules, state: TurnState) -> TurnRules:
    """The agent's rules for the next action, with what the context has from outside.

    It is known from the session's row, however long the log is.
    """
    if not rules.outlets or not isinstance(state, Calling):
        return rules
    sources = project(run.row.projection(), run.unlogged).external
    if not sources:
        return rules
    return replace(rules, sources=sources, cleared=frozenset(_cleared(run, rules, state)))


def _cleared(run: Run, rules: TurnRules, state: Calling) -> list[ToolCallId]:
    """The calls whose URL a person gave. A sub-agent has its URLs from its parent, not from people."""
    if run.row.parent_session_id is not None:
        return []
    urls = {
        call.id: rules.outlets[call.name].url_of(call.arguments)
        for call in state.calls
        if isinstance(call.status, Announced) and call.name in rules.outlets
    }
    if not any(urls.values()):
        return []
    messages = run.conversation.upcoming()
    return [call_id for call_id, url in urls.items() if url is not None and is_given(url, messages)]


def external_of(
    bound: BoundTool | None, network: NetworkRules, arguments: JsonValue, heard: str | None
) -> External | None:
    """The mark of a call's result; `heard`: the source that the tool has named."""
    if bound is None:
        return None
    source = heard or source_of(bound, network, arguments)
    return None if source is None else External(source, bound.tool.name)
