"""The Bus port: within a process, and between processes on one PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import pytest
import pytest_asyncio

from perdure.domain.events import Event
from perdure.store.bus import SUBSCRIPTION_LIMIT, Appended, Bus, Live, LocalBus, Stop, Subscription
from perdure.store.database import Tx
from perdure.store.postgres.bus import PostgresBus
from perdure.store.postgres.database import PostgresDatabase, open_postgres
from perdure.store.postgres.notify import Notifier, open_notifier
from perdure.store.rows import insert, values
from perdure.store.sessions import SessionRow
from tests.conformance.other_process import other_process
from tests.conformance.places import Place, eventually, postgres, soon, wire_to
from tests.postgres_server import PostgresServer

CONTEXT = '{"turn_id":"turn_1"}'


class Buses:
    """Creates buses, each as a separate process would have it."""

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self._open: list[PostgresBus | LocalBus | Notifier] = []

    async def open(self, database: PostgresDatabase | None = None) -> Bus:
        if self.place is None:
            local = LocalBus()
            self._open.append(local)
            return local
        database = database or postgres(await self.place.open())
        notifier = await open_notifier(database)
        bus = PostgresBus(database, notifier)
        self._open += [notifier, bus]
        return bus

    async def close(self) -> None:
        for bus in reversed(self._open):
            await bus.close()


@pytest_asyncio.fixture(params=["local", "postgres"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """One bus, as the process that runs the session has it."""
    if request.param == "local":
        yield LocalBus()
        return
    async for buses in _on_postgres(request):
        yield await buses.open()


@pytest_asyncio.fixture(params=["the same process", "another process"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bus, Bus]]:
    """The buses of the sending and of the listening process, on PostgreSQL."""
    async for buses in _on_postgres(request):
        speaker = await buses.open()
        yield speaker, speaker if request.param == "the same process" else await buses.open()


@pytest_asyncio.fixture
async def buses(request: pytest.FixtureRequest) -> AsyncIterator[Buses]:
    """Buses on PostgreSQL, with a session `s` that is active."""
    async for buses in _on_postgres(request):
        yield buses


async def _on_postgres(request: pytest.FixtureRequest) -> AsyncIterator[Buses]:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    async with server.migrated_database() as url:
        place = Place("postgres", url)
        database = await place.open()
        await database.write(lambda tx: tx.run(insert("sessions", SessionRow), *values(session("s"))))
        buses = Buses(place)
        yield buses
        await buses.close()
        await place.close()


def session(name: str) -> SessionRow:
    return SessionRow(
        id=name,
        org_id="org_1",
        owner_id="user_1",
        harness_id="harness_1",
        agent_id=None,
        title=None,
        tags="[]",
        locale=None,
        model_id=None,
        config="{}",
        forked_from_id=None,
        forked_from_sequence=None,
        created_at=1,
        updated_at=1,
        deleted_at=None,
        epoch=0,
        recoveries=0,
        claimed_head=0,
        head=1,
        status="active",
        turn_id="turn_1",
        turn_after=0,
        wake_at=None,
        preview=None,
        output_preview=None,
        usage=None,
        started_at=None,
        finished_at=None,
    )


def event(kind: str, sequence: int) -> Event:
    return Event("event_1", "s", sequence, kind, 0, "{}", "{}", None, None)


class Speaker:
    """Publishes a message on a bus, delta by delta, as a runner does."""

    def __init__(self, bus: Bus, *, key: str = "message_1", kind: str = "text") -> None:
        self._bus = bus
        self._live = Live(
            "s", "turn_1", key, "thinking" if kind == "thinking" else "text", 1, 0, "", "", context=CONTEXT
        )

    def say(self, *texts: str) -> None:
        for text in texts:
            before = self._live.accumulated
            self._live = msgspec.structs.replace(
                self._live,
                offset=len(before),
                text=text,
                accumulated=before + text,
                sequence=self._live.sequence + 1,
            )
            self._bus.publish(self._live)

    def begin_anew(self) -> None:
        self._live = msgspec.structs.replace(self._live, accumulated="")

    def finish(self) -> None:
        self._bus.publish(Appended("s", 9, (event("output.message.completed", 9),)))


class Listener:
    """A follower that assembles live text, as the feed does."""

    def __init__(self, bus: Bus, session_id: str = "s") -> None:
        self._bus = bus
        self.ear: Subscription = bus.subscribe(session_id)
        self.signals: list[Appended | Live] = []
        self.texts: dict[str, str] = {}
        self.lost = False

    async def join(self) -> list[Live]:
        drafts = await self._bus.drafts(self.ear.session_id)
        for draft in drafts:
            key = f"{draft.kind}/{draft.key}"
            self.texts[key] = max(self.texts.get(key, ""), draft.accumulated, key=len)
        return drafts

    async def more(self) -> None:
        """Wait for signals and process them."""
        assert await self.ear.wait(20), "nothing came"
        signals, lost = self.ear.drain()
        self.lost |= lost
        for signal in signals:
            self.signals.append(signal)
            if isinstance(signal, Live):
                self._take(signal)

    def _take(self, live: Live) -> None:
        if live.kind not in ("text", "thinking"):
            return
        key, have = f"{live.kind}/{live.key}", self.texts.get(f"{live.kind}/{live.key}", "")
        assert live.accumulated[live.offset :] == live.text
        if live.offset == 0 or len(live.accumulated) > len(have):
            assert live.offset <= len(have), "a piece is missing"
            self.texts[key] = live.accumulated

    async def until_text(self, text: str, key: str = "text/message_1") -> None:
        while self.texts.get(key) != text:
            await soon(self.more())

    async def until_head(self, head: int) -> list[Appended]:
        while not any(isinstance(signal, Appended) and signal.head == head for signal in self.signals):
            await soon(self.more())
        return [signal for signal in self.signals if isinstance(signal, Appended)]


# --- within one process
# ---------------------------------------------------------------------------------------------


async def test_a_follower_hears_its_session_and_no_other_at_once_and_once(bus: Bus) -> None:
    ear = bus.subscribe("s")
    bus.publish(Appended("other", 1))
    bus.publish(Appended("s", 1, (event("input.message", 1),)))
    bus.publish(Live("s", "turn_1", "call_1", "stdout", 1, 0, "text", "text"))
    signals, lost = ear.drain()
    assert [type(signal) for signal in signals] == [Appended, Live]
    assert not lost
    assert isinstance(signals[0], Appended)
    assert signals[0].events[0].type == "input.message"
    assert not await ear.wait(0.2)  # nothing comes back on the wire
    bus.unsubscribe(ear)
    bus.publish(Appended("s", 2))
    assert not ear.signals


async def test_who_wants_no_live_text_is_not_woken_by_it(bus: Bus) -> None:
    ear = bus.subscribe("s", live=False)
    Speaker(bus).say("Hello, ", "world")
    assert not await ear.wait(0.05)
    bus.publish(Appended("s", 2))
    assert [type(signal) for signal in ear.drain()[0]] == [Appended]


async def test_a_follower_that_is_slow_is_told_and_costs_no_more_memory(bus: Bus) -> None:
    ear = bus.subscribe("s")
    for head in range(SUBSCRIPTION_LIMIT * 3):
        bus.publish(Appended("s", head))
    assert len(ear.signals) <= SUBSCRIPTION_LIMIT
    assert await ear.wait(0)
    signals, lost = ear.drain()
    assert lost
    assert isinstance(signals[-1], Appended)
    assert signals[-1].head == SUBSCRIPTION_LIMIT * 3 - 1
    assert ear.drain() == ([], False)


async def test_who_joins_in_the_middle_is_given_what_was_said(bus: Bus) -> None:
    text, thought = Speaker(bus), Speaker(bus, key="message_2", kind="thinking")
    text.say("Hello, ", "wor")
    thought.say("Hm")
    listener = Listener(bus)
    drafts = await listener.join()
    assert [(draft.kind, draft.key, draft.accumulated, draft.context) for draft in drafts] == [
        ("text", "message_1", "Hello, wor", CONTEXT),
        ("thinking", "message_2", "Hm", CONTEXT),
    ]
    text.say("ld")
    await listener.until_text("Hello, world")


@pytest.mark.parametrize("kind", ["output.message.completed", "reason.completed", "session.idled"])
async def test_what_is_complete_is_no_draft_any_more(bus: Bus, kind: str) -> None:
    Speaker(bus).say("Hello")
    bus.publish(Appended("s", 2, (event("input.message", 2),)))
    assert len(await bus.drafts("s")) == 1
    bus.publish(Appended("s", 3, (event(kind, 3),)))
    assert await bus.drafts("s") == []


async def test_a_tools_output_is_heard_and_not_kept(bus: Bus) -> None:
    ear = bus.subscribe("s")
    bus.publish(Live("s", "turn_1", "call_1", "stdout", 1, 0, "text", "text", name="bash"))
    assert [signal.text for signal in ear.drain()[0] if isinstance(signal, Live)] == ["text"]
    assert await bus.drafts("s") == []


async def test_a_stop_is_heard_by_every_worker_here(bus: Bus) -> None:
    heard: list[Stop] = []
    bus.on_stop(heard.append)
    bus.on_stop(heard.append)
    bus.publish(Stop("s", 3))
    assert heard == [Stop("s", 3)] * 2


async def test_waiting_ends_after_its_time_or_with_a_loss(bus: Bus) -> None:
    ear = bus.subscribe("s")
    assert not await ear.wait(0.01)
    waiting = asyncio.create_task(ear.wait(20))
    await asyncio.sleep(0)
    ear.lose()
    assert await soon(waiting)
    assert ear.drain() == ([], True)


# --- between processes
# ----------------------------------------------------------------------------------------------


async def test_wake_ups_and_live_text_arrive_in_order(pair: tuple[Bus, Bus]) -> None:
    speaking, listening = pair
    listener, speaker = Listener(listening), Speaker(speaking)
    for number in range(100):
        speaker.say(f"{number} ")
        speaking.publish(Appended("s", number, (event("input.message", number),)))
    heads = await listener.until_head(99)
    assert [signal.head for signal in heads] == list(range(100))
    await listener.until_text("".join(f"{number} " for number in range(100)))
    assert listener.signals.index(heads[-1]) == len(listener.signals) - 1
    assert all(isinstance(signal, Live) and signal.context == CONTEXT for signal in listener.signals[0::2])
    assert [signal.sequence for signal in listener.signals if isinstance(signal, Live)] == list(range(2, 102))


async def test_texts_of_any_length_and_kind_arrive_whole(pair: tuple[Bus, Bus]) -> None:
    speaking, listening = pair
    listener, speaker = Listener(listening), Speaker(speaking)
    texts = ["\N{GRINNING FACE}" * 3_000, '\0\x01\x1b"\\' * 5_000, "Grüße " * 20_000, "x", "\u2028" * 1_201]
    for text in texts:
        speaker.say(text)
        await listener.ear.wait(20)
    await listener.until_text("".join(texts))
    assert [signal.text for signal in listener.signals if isinstance(signal, Live)] == texts


async def test_a_tools_output_passes_between_processes(pair: tuple[Bus, Bus]) -> None:
    speaking, listening = pair
    listener = Listener(listening)
    speaking.publish(
        Live("s", "turn_1", "call_1", "stderr", 4, 7, "oh", "before oh", name="bash", context=CONTEXT)
    )
    await listener.more()
    assert isinstance(heard := listener.signals[0], Live)
    assert (heard.key, heard.kind, heard.text, heard.name, heard.turn_id) == (
        "call_1",
        "stderr",
        "oh",
        "bash",
        "turn_1",
    )


async def test_a_text_that_begins_anew_replaces_what_was_said(pair: tuple[Bus, Bus]) -> None:
    speaking, listening = pair
    listener, speaker = Listener(listening), Speaker(speaking)
    speaker.say("a failed ", "attempt")
    await listener.until_text("a failed attempt")
    speaker.begin_anew()
    speaker.say("now ", "it goes on for longer than before")
    await listener.until_text("now it goes on for longer than before")


async def test_a_stop_reaches_the_workers_of_other_processes(buses: Buses) -> None:
    one, two = await buses.open(), await buses.open()
    heard: asyncio.Queue[Stop] = asyncio.Queue()
    two.on_stop(heard.put_nowait)
    for stop in (Stop("s", 3), Stop("s", 0, task_id="t")):
        one.publish(stop)
        assert await soon(heard.get()) == stop


async def test_the_first_listener_of_a_process_joins_in_the_middle(buses: Buses) -> None:
    speaker = Speaker(await buses.open())
    speaker.say("Hello, ", "wor")
    listening = await buses.open()
    listener = Listener(listening)
    assert await listener.join() == []  # it is too young to have a row
    speaker.say("ld", "!")
    await listener.until_text("Hello, world!")
    second = Listener(listening)
    await second.join()
    await second.until_text("Hello, world!")


async def test_a_message_that_takes_longer_has_a_row_until_it_is_complete(buses: Buses) -> None:
    speaking = await buses.open()
    speaker, thinker = Speaker(speaking), Speaker(speaking, key="message_0", kind="thinking")
    thinker.say("Hm\0")
    speaker.say("Hello, ")
    listening = await buses.open()
    drafts = await eventually(lambda: listening.drafts("s"))
    assert {(it.kind, it.key, it.accumulated, it.turn_id, it.context) for it in drafts} == {
        ("thinking", "message_0", "Hm\ufffd", "turn_1", CONTEXT),
        ("text", "message_1", "Hello, ", "turn_1", CONTEXT),
    }
    listener = Listener(listening)
    speaker.say("wor")
    await listener.join()
    speaker.say("ld")
    await listener.until_text("Hello, world")
    speaker.finish()
    await listener.until_head(9)
    await eventually(lambda: listening.drafts("s"), lambda found: not found)
    database = postgres(await buses.place.open()) if buses.place else None
    assert database is not None
    assert await database.read(lambda tx: tx.all("SELECT 1 FROM drafts")) == []


async def test_the_row_of_a_speaker_that_died_is_not_shown(buses: Buses) -> None:
    assert buses.place is not None
    database = postgres(await buses.place.open())
    listening = await buses.open()

    async def body(tx: Tx) -> None:
        sql = "INSERT INTO drafts VALUES (?, 'text', ?, 'org_1', 'turn_1', 1, 1, '', '{}', 'ghost', ?)"
        await tx.run(sql, "s", "old", 1)
        await tx.run(sql, "gone", "of no session", 2**62)

    await database.write(body)
    assert await listening.drafts("s") == []
    assert await listening.drafts("gone") == []
    Speaker(await buses.open()).say("Hello")
    rows = await eventually(
        lambda: database.read(lambda tx: tx.all("SELECT key FROM drafts ORDER BY key")), _is_alone
    )
    assert [row[0] for row in rows] == ["message_1", "of no session"]


def _is_alone(rows: list[object]) -> bool:
    return len(rows) == 2 and "old" not in str(rows)


async def test_a_bus_that_closes_takes_its_rows_along(buses: Buses) -> None:
    speaking, listening = await buses.open(), await buses.open()
    Speaker(speaking).say("Hello")
    await eventually(lambda: listening.drafts("s"))
    await speaking.close()
    assert await listening.drafts("s") == []


async def test_another_process_is_heard(buses: Buses) -> None:
    assert buses.place is not None
    listener = Listener(await buses.open())
    async with other_process("speak", buses.place.url, "s") as other:
        assert await other.line() == "ready"
        assert other.process.stdin is not None
        other.process.stdin.write("Grüße,\nWelt\n!\n".encode())
        await listener.until_text("Grüße,Welt!", "text/message")
        heads = await listener.until_head(11)
        assert [signal.head for signal in heads] == [6, 10, 11]


async def test_a_listener_whose_connection_is_ended_is_told_and_hears_again(buses: Buses) -> None:
    assert buses.place is not None
    database = postgres(await buses.place.open())
    speaking, listening = await buses.open(), await buses.open()
    listener, speaker = Listener(listening), Speaker(speaking)
    speaker.say("Hello, ")
    await listener.until_text("Hello, ")
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )
    assert await database.read(lambda tx: tx.all(end))
    while not listener.lost:
        await soon(listener.more())
    for _ in range(1000):  # the speaker's own connection may still be on its way
        speaker.say("again ")
        if listener.texts["text/message_1"].endswith("again "):
            break
        await listener.ear.wait(0.05)
        if listener.ear.signals:
            await listener.more()
    assert listener.texts["text/message_1"].startswith("Hello, again ")


async def test_what_is_said_while_the_server_is_away_is_caught_up_with(buses: Buses) -> None:
    assert buses.place is not None
    async with wire_to(buses.place.url) as wire:
        there = await open_postgres(wire.url, min_size=1, max_size=2)
        speaking, listening = await buses.open(there), await buses.open()
        listener, speaker = Listener(listening), Speaker(speaking)
        speaker.say("Hello, ")
        await listener.until_text("Hello, ")
        await wire.cut()
        speaker.say(*("x" * 10 for _ in range(6_000)))  # more than is kept for the wire
        speaking.publish(Appended("s", 7, (event("input.message", 7),)))
        await wire.mend()
        await listener.until_head(7)
        speaker.say("world")
        await listener.until_text("Hello, " + "x" * 60_000 + "world")
        await speaking.close()
        await there.close()


async def test_text_that_is_no_text_breaks_nothing(buses: Buses) -> None:
    speaking, listening = await buses.open(), await buses.open()
    listener, speaker = Listener(listening), Speaker(speaking)
    speaker.say("half a pair: \ud83d", ".")
    await listener.until_text("half a pair: ?.")
    drafts = await eventually(
        lambda: listening.drafts("s"), lambda found: bool(found and found[0].sequence == 3)
    )
    assert drafts[0].text == "half a pair: ?."


async def _notify(tx: Tx, payload: str) -> None:
    await tx.one("SELECT pg_notify('perdure_1', ?)", payload)


async def test_what_another_version_says_is_passed_over(buses: Buses) -> None:
    assert buses.place is not None
    database = postgres(await buses.place.open())
    speaking, listening = await buses.open(), await buses.open()
    listener = Listener(listening)
    for payload in ("", "nonsense", '["x",1,[["unheard-of",1]]]'):
        await database.read(partial(_notify, payload=payload))
    speaking.publish(Appended("s", 2))
    assert [signal.head for signal in await listener.until_head(2)] == [2]
