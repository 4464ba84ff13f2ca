"""Context reports: the estimated input of a session's next model call, by section and source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.events import conversation_of
from perdure.capabilities.layers import SessionLayers, acting, load_layers
from perdure.capabilities.model_choice import find_model
from perdure.capabilities.resolve import ResolvedAgent, resolve_session
from perdure.domain.accounts import Caller
from perdure.domain.compaction import ContextCompactedData
from perdure.domain.context_reports import (
    ContextReportContribution,
    ContextReportSection,
    EffectivePolicy,
    SessionContextReport,
)
from perdure.domain.events import LlmGenerationData, PromptRef
from perdure.domain.history import estimate_tokens
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.messages import Message, ToolResultPart, tool_calls_of
from perdure.domain.model_profiles import window_of
from perdure.domain.redaction import Redactor
from perdure.domain.tokens import text_tokens
from perdure.domain.turn import IDLE
from perdure.domain.turn_queries import next_controls
from perdure.llm.catalog import ServedModel
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds
from perdure.store.parked_turns import read_turn
from perdure.store.providers import UsableModel
from perdure.store.rows import to_json
from perdure.store.sessions import IN_TURN, SessionRow, get_session
from perdure.store.storage import open_secrets

LABELS = {
    "system_prompt": "System prompt",
    "tools": "Tools",
    "summary": "Summary of earlier messages",
    "user_messages": "Messages of the user",
    "agent_messages": "Messages of the agent",
    "tool_results": "Results of tools",
}
"""The sections of a report, in the order in which a model gets them."""

CLIENT_SIDE = "client_side"
"""The source of tools that clients run."""

LOOK_BACK = 20
"""The most model calls and compactions that are read to find where the current context begins."""


class _Context(Struct, frozen=True):
    layers: SessionLayers
    model: UsableModel | None
    messages: list[Message]
    summary: Message | None
    redactor: Redactor


class _Sums:
    """Tokens and items by section, and tokens by source."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = defaultdict(int)
        self.items: dict[str, int] = defaultdict(int)
        self.sources: dict[tuple[str, str], tuple[str, int]] = {}

    def add(self, section: str, tokens: int, source: str | None = None, label: str = "") -> None:
        self.tokens[section] += tokens
        self.items[section] += 1
        if source is not None:
            _, before = self.sources.get((section, source), ("", 0))
            self.sources[section, source] = (label, before + tokens)


async def context_report(app: App, caller: Caller, session_id: SessionId) -> SessionContextReport:
    """Report the input of the session's next model call.

    Tokens are estimated from characters, and tool results count whole. The vendor's own counts are in the
    usage of each call.
    """
    context = await app.database.read(
        lambda tx: _read_context(app, tx, caller.organization_id, session_id), long=True
    )
    row = context.layers.session
    agent = await resolve_session(
        context.layers,
        app.registry,
        now=app.now,
        redactor=context.redactor,
        model=context.model,
    )
    sums = _Sums()
    _add_prompt(sums, agent)
    _add_tools(sums, agent)
    _add_messages(sums, context.messages, context.summary)
    name, window = "", None
    if agent.model is not None:
        model, provider = agent.model.model, agent.model.provider
        profile = app.catalog.at_hand(ServedModel(provider.provider_type, provider.base_url, model.model_id))
        name, window = model.model_id, window_of(model.context_tokens, profile)
    return SessionContextReport(
        session_id=row.id,
        model=name,
        estimated_input_tokens=sum(sums.tokens.values()),
        sections=tuple(
            ContextReportSection(key, label, sums.tokens[key], sums.items[key])
            for key, label in LABELS.items()
            if sums.items[key]
        ),
        contributions=tuple(
            ContextReportContribution(key, source, label, tokens)
            for (key, source), (label, tokens) in sums.sources.items()
        ),
        policy=EffectivePolicy(
            tuple(sorted(agent.rules.gated)),
            tuple(sorted(name for name, each in agent.bound.items() if each.rejected)),
            agent.network.allowed,
            agent.network.blocked,
            "ask" if any(each.watches_data() for each in agent.active) else "off",
        ),
        context_window_tokens=window,
        cumulative_usage=row.projection().usage,
        external=row.external_sources(),
    )


async def _read_context(app: App, tx: Tx, org_id: OrgId, session_id: SessionId) -> _Context:
    row = await get_session(tx, org_id, session_id)
    # Between turns, nobody has given the next message's values yet.
    state = await read_turn(tx, row, app.turns) if row.status in IN_TURN else IDLE
    controls = next_controls(state)
    layers = await load_layers(tx, acting(row, state), controls.variables if controls else None)
    conversation = await conversation_of(tx, row.id, await _present_prompt(tx, row))
    redactor = Redactor(await open_secrets(tx, app.vault, org_id, row.id))
    model = await find_model(tx, row.org_id, layers.layers)
    return _Context(layers, model, conversation.upcoming(), conversation.summary, redactor)


async def _present_prompt(tx: Tx, row: SessionRow) -> PromptRef:
    """Return the part of the log that the next call starts with.

    That is the part of the last call, or the part that a compaction has kept since.
    """
    kinds = (LlmGenerationData.kind, ContextCompactedData.kind)
    before, left, more = row.head, LOOK_BACK, True
    while more and left > 0:
        page, more = await events_of_kinds(tx, row.id, kinds, before=before, limit=left)
        for event in page:
            match event.decoded():
                case ContextCompactedData(after=int(after)):
                    return PromptRef(after, row.head, event.sequence)
                case LlmGenerationData(prompt=PromptRef(before=None) as prompt):
                    return msgspec.structs.replace(prompt, through=row.head)
            before, left = event.sequence - 1, left - 1
    return PromptRef(0, row.head)


def _add_prompt(sums: _Sums, agent: ResolvedAgent) -> None:
    for section in agent.sections:
        if section.text:
            sums.add("system_prompt", text_tokens(section.text), section.source, section.label)


def _add_tools(sums: _Sums, agent: ResolvedAgent) -> None:
    for spec in agent.specs:
        bound = agent.bound.get(spec.name)
        source, label = (
            (CLIENT_SIDE, "Client-side tools")
            if bound is None
            else (bound.capability_id, bound.capability_name)
        )
        text = spec.name + spec.description + to_json(spec.parameters)
        sums.add("tools", text_tokens(text), source, label)


def _add_messages(sums: _Sums, messages: Sequence[Message], summary: Message | None) -> None:
    names: dict[str, str] = {}
    for message in messages:
        names.update((call.id, call.name) for call in tool_calls_of(message))
        tokens = estimate_tokens(message)
        if message is summary:
            sums.add("summary", tokens)
        elif message.role == "tool_result":
            part = message.content[0]
            name = names.get(part.tool_call_id, "") if isinstance(part, ToolResultPart) else ""
            sums.add("tool_results", tokens, name or "unknown", name or "unknown")
        else:
            sums.add("agent_messages" if message.role == "agent" else "user_messages", tokens)
