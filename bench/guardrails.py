"""Measure what guardrails add to an answer of 500 streamed tokens: the processor time of this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

from bench.figures import Figures, Once, Scale
from bench.variant import Variant
from perdure.capabilities.guarding import Guard
from perdure.domain.events import EventContext
from perdure.domain.guardrail_checks import AnyCheck, BlocklistCheck, PiiCheck, RegexCheck
from perdure.domain.guardrails import Guardrails
from perdure.domain.ids import MessageId, OrgId, SessionId, TurnId
from perdure.domain.redaction import Redactor
from perdure.engine.guarded import Writing, check_answer
from perdure.engine.live import LiveText
from perdure.llm.driver import ModelResponse
from perdure.store.bus import LocalBus
from perdure.store.database import Tx
from perdure.store.providers import UsableModel

TOKENS = 500
BATCH = 20
"""Answers that are measured together."""
EVERY = 3
"""Tokens that arrive between two deltas: 500 tokens in 8 seconds, and a delta each 50 ms."""
TEXT = "The heron waits by the river until it sees 2 or 3 fish, then it steps forward and strikes."
WORDS = TEXT.split(" ")
ONE: tuple[AnyCheck, ...] = (RegexCheck(pattern=r"(?:sk|pk)-[A-Za-z0-9]{20,40}"),)
SEVERAL: tuple[AnyCheck, ...] = (
    *ONE,
    BlocklistCheck(words=tuple(f"project {name}" for name in ("apollo", "blue heron", "granite"))),
    PiiCheck(kinds=("credit_card", "iban"), action="replace"),
)


@contextlib.asynccontextmanager
async def guardrails(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Stream an answer without guardrails, with one check, and with several."""

    async def once() -> Figures:
        if variant.source is not None:
            return {}  # this process has its own source only
        took: dict[int, list[float]] = {0: [], 1: [], 3: []}
        for _ in range(max(3, scale.turns // BATCH)):
            for checks in ((), ONE, SEVERAL):
                began = time.process_time()
                for _ in range(BATCH):
                    await _answer(checks)
                took[len(checks)].append((time.process_time() - began) / BATCH)
        none = median(took[0])
        return {
            "guardrail_ms": (median(took[1]) - none) * 1e3,
            "guardrails_ms": (median(took[3]) - none) * 1e3,
        }

    yield once


async def _answer(checks: tuple[AnyCheck, ...]) -> None:
    """Publish and check an answer."""
    guard = Guard(Guardrails(checks), None, OrgId("org"), _no_model, Redactor({})) if checks else None
    tokens = [f"{WORDS[n % len(WORDS)]} " for n in range(TOKENS)]
    live = LiveText(
        LocalBus(),
        session_id=SessionId("session"),
        turn_id=TurnId("turn"),
        message_id=MessageId("message"),
        sequence=1,
        interval=3600.0,
        context="{}",
        redactor=Redactor({}),
        hold=None if guard is None else guard.holds("output"),
    )
    for number, token in enumerate(tokens):
        live.add("text", token)
        if number % EVERY == 0:
            live.flush()
    text = "".join(tokens)
    writing = Writing(
        TurnId("turn"), MessageId("message"), EventContext(), False, (live.clean("text", text), 0)
    )
    checked = await check_answer(guard, ModelResponse(text), writing, 0)
    if guard is None:
        live.finish()
    else:
        live.finish_checked({"text": checked.response.text})


async def _no_model(tx: Tx) -> UsableModel | None:
    return None
