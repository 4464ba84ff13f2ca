"""Text from outside in a run's context: where it came from, and which calls it makes ask for approval."""

from __future__ import annotations

import contextlib
from functools import partial

from msgspec.structs import replace

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.guards import source_of
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.actions import TurnRules
from perdure.domain.calls import Announced
from perdure.domain.data_flow import MAX_SOURCE, External, with_sources
from perdure.domain.errors import NotFound
from perdure.domain.given_urls import is_given
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonValue
from perdure.domain.network import NetworkRules
from perdure.domain.projection import project
from perdure.domain.turn import Calling, TurnState
from perdure.engine.outages import outlast
from perdure.engine.run import Run
from perdure.engine.site import Site
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow
from perdure.store.workspaces import external_of_files, hold_workspace, note_external


def rules_ahead(run: Run, rules: TurnRules, state: TurnState) -> TurnRules:
    """The agent's rules for the next action, with what the context has from outside.

    It is known from the session's row, however long the log is.
    """
    if not rules.outlets or not isinstance(state, Calling):
        return rules
    sources = with_sources(project(run.row.projection(), run.unlogged).external, rules.sources)
    if not sources:
        return rules
    return replace(rules, sources=sources, cleared=frozenset(_cleared(run, rules, state)))


async def with_instructions(run: Run, agent: ResolvedAgent) -> ResolvedAgent:
    """Return the agent with the mark of its instructions, if it has some from files that others wrote, too.

    Raises Unavailable.
    """
    if not agent.rules.outlets or run.row.external != "[]":
        return agent
    named = {each.capability.id for each in agent.active if each.capability.has_instructions}
    if not any(each.discovered and each.text and each.source in named for each in agent.sections):
        return agent
    found = await _external_of_files(run)
    if not found:
        return agent
    mark = External(_of_file(found[0]))
    return replace(agent, rules=replace(agent.rules, sources=(mark,)))


def _of_file(source: External) -> str:
    return f"a file of a session that has read {source.source}"[:MAX_SOURCE]


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


async def external_of(
    site: Site,
    bound: BoundTool | None,
    network: NetworkRules,
    arguments: JsonValue,
    heard: str | None = None,
) -> External | None:
    """The mark of a call's result; `heard`: the source that the tool has named."""
    if bound is None:
        return None
    source = heard or source_of(bound, network, arguments)
    if source is None and bound.tool.reads_files and _may_be_news(site.row):
        found = await _external_of_files(site)
        source = _of_file(found[0]) if found else None
    return None if source is None else External(source, bound.tool.name)


def _may_be_news(row: SessionRow) -> bool:
    """Whether the session's files can have text from outside that it has not heard of itself.

    Others write a session's own files, too: its sub-agents, and sessions that share its workspace.
    """
    own = row.workspace_id is None and row.parent_session_id is None and row.forked_from_id is None
    return not own or row.external == "[]"


async def _external_of_files(site: Site) -> tuple[External, ...]:
    row = site.row
    read = partial(external_of_files, org_id=row.org_id, workspace_id=row.workspace())
    return await outlast(site.engine, row.id, partial(site.engine.database.read, read))


async def note_written(site: Site, external: External | None, *, wrote: bool) -> None:
    """Note in the workspace that a call has written text from outside: the session's row does not say it yet.

    Args:
        wrote: whether the call has changed files.
    """
    row = site.row
    if external is None or not wrote or row.external != "[]":
        return

    async def work(tx: Tx) -> None:
        await note_external(tx, await hold_workspace(tx, row.org_id, row.workspace()), (external,))

    with contextlib.suppress(NotFound):  # the session was deleted meanwhile
        await outlast(site.engine, row.id, partial(site.engine.database.write, work))
