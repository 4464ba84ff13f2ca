"""Logs that contain more than clients may send: they are read like any other, and the session goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.app.accounts import bootstrap
from perdure.app.context_reports import context_report
from perdure.app.events import EventReader
from perdure.app.forks import fork_session
from perdure.app.messages import list_messages, post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.session_exports import export_session
from perdure.app.sessions import create_session, read_session
from perdure.domain.accounts import Caller
from perdure.domain.events import (
    ActStartedData,
    Event,
    EventContext,
    InputMessageData,
    LlmGenerationData,
    LlmGenerationMetadata,
    LlmGenerationOutput,
    NewEvent,
    OutputMessageCompletedData,
    ReasonCompletedData,
    ReasonStartedData,
    ReasonThinkingCompletedData,
    SessionActivatedData,
    ToolCall,
    ToolCallSummary,
    ToolCompletedData,
    ToolStartedData,
    TurnStartedData,
)
from perdure.domain.ids import SessionId
from perdure.domain.messages import (
    Controls,
    CreateMessage,
    ExternalActor,
    ImagePart,
    InputMessage,
    Message,
    ReasoningConfig,
    TextPart,
    ToolCallPart,
)
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession, ForkSession
from perdure.domain.times import to_rfc3339
from perdure.engine.advance import advance
from perdure.settings import Settings
from perdure.store.events import EventFilter
from perdure.store.sessions import append, get_session
from perdure.wiring import Parts, open_parts

LONG = "x" * 1_100_000
WORD = "w" * 5_000


def over_all_limits(parts: Parts) -> list[NewEvent]:
    """A turn that was killed while it called a tool, with everything in it too long."""
    app = parts.app
    now = app.now()
    turn, exec_id = app.new_id("turn"), app.new_id("exec")
    asked, said = app.new_id("message"), app.new_id("message")
    context = EventContext(turn, asked, exec_id)
    call = ToolCallPart("i" * 5_000, WORD, {"text": LONG})
    user = Message(
        asked,
        "user",
        (
            *(TextPart("part") for _ in range(150)),
            TextPart(LONG),
            ImagePart(base64="", media_type=WORD),
            ImagePart(url="https://example.com/" + "u" * 9_000),
            ImagePart(),
        ),
        to_rfc3339(now),
        controls=Controls(None, ReasoningConfig(WORD), WORD, WORD),
        external_actor=ExternalActor(WORD, WORD, WORD),
        tags=(WORD,) * 60,
    )
    agent = Message(said, "agent", (TextPart(LONG), call), to_rfc3339(now), "commentary", thinking=LONG)
    metadata = LlmGenerationMetadata(WORD, True, WORD, finish_reasons=(WORD,), response_id=WORD, error=LONG)
    output = LlmGenerationOutput(LONG, (ToolCall(call.id, call.name, call.arguments),))
    harness: Any = "harness_" + "0" * 32
    data: list[Any] = [
        InputMessageData(user),
        SessionActivatedData(turn, asked),
        TurnStartedData(turn, asked, WORD),
        ReasonStartedData(harness),
        ReasonThinkingCompletedData(turn, LONG),
        OutputMessageCompletedData(agent),
        LlmGenerationData(metadata, output),
        ReasonCompletedData(True, True, 1, text_preview=WORD),
        ActStartedData((ToolCallSummary(call.id, call.name, WORD, WORD),)),
        ToolStartedData(ToolCall(call.id, call.name, call.arguments), WORD),
        ToolCompletedData(call.id, call.name, False, "error", (TextPart(LONG),), LONG, display_name=WORD),
    ]
    return [NewEvent(each, context, now) for each in data]


async def test_a_log_over_all_limits_is_read_copied_and_continued(database_url: str, tmp_path: Path) -> None:
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        provider = await create_provider(app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(app, owner, provider.id, CreateModel("simulated", "Simulated"))
        session = await create_session(app, owner, CreateSession(harness_name="base"))
        events = over_all_limits(parts)

        async def write(tx: Any) -> None:
            row = await get_session(tx, owner.organization_id, session.id, lock=True)
            await append(tx, row, events, now=app.now())

        await app.database.write(write)
        copy = await fork_session(app, owner, session.id, ForkSession())
        for each in (session.id, copy.id):
            if each == session.id:
                await advance(parts.engine, each, again=True)
                assert (await read_session(app, owner, each)).status == "idle"
            await post_message(app, owner, each, CreateMessage(InputMessage((TextPart("Still there?"),))))
            await advance(parts.engine, each)
            messages = [message async for batch in list_messages(app, owner, each) for message in batch]
            assert max(len(text) for text in texts_in(messages)) == len(LONG)
            assert sum([len(part) async for part in export_session(app, owner, each)]) > len(LONG)
            assert (await context_report(app, owner, each)).estimated_input_tokens > 0
            page = await every_event(parts, owner, each)
            assert [event.type for event in page if event.type == "turn.failed"] == []
            assert page[-2].type == "turn.completed"
            assert all(event.decoded() for event in page)


async def every_event(parts: Parts, owner: Caller, session_id: SessionId) -> list[Event]:
    events: list[Event] = []
    while True:
        after = EventFilter(after=events[-1].sequence if events else 0)
        reader = EventReader(parts.app, owner, session_id, after, 1_000)
        events += await reader.all()
        if not reader.more:
            return events


def texts_in(messages: list[Message]) -> list[str]:
    parts = [part for message in messages for part in message.content]
    return [part.text for part in parts if isinstance(part, TextPart)]
