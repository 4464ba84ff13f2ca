"""`perdure demo`: a session works, is killed, and continues.

Everything is real, except for one simulated model, where the output says so.

The demo checks every claim before it prints it. If a check fails, it exits with status 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from perdure.cli.common import DEFAULT_URL, CommandFailed
from perdure.cli.demo_server import DemoServer
from perdure.cli.local_model import cache_folder, start_local_model
from perdure.cli.render import TurnPrinter
from perdure.cli.sessions import print_session
from perdure.cli.terminal import Screen
from perdure.cli.texts import duration
from perdure.client import CapabilityRef, Client, Controls, WireEvent, data_of, turn_failure
from perdure.domain.events import ENDED_TURN
from perdure.domain.messages import text_of
from perdure.llm.vendors import VENDORS

if TYPE_CHECKING:
    from perdure.domain.providers import Model
    from perdure.domain.sessions import Session

QUESTION = "What is the capital of France? Answer in one sentence."
TOOL_QUESTION = "What time is it? Use your tool."
STORY = "Tell me a long story about a lighthouse keeper and a storm. At least five hundred words."
TITLE, TAGS = "A session that would not die", ("demo", "survivor")
PROMPT = "You are a friendly assistant. Answer briefly unless you are asked for more."

KILL_AFTER = 80
"""Characters of the story on screen when the server is killed: enough to see, far from the story's end."""

TURN_TIMEOUT = 180.0
"""Timeout for one turn in seconds, even the resumed one; the small model takes about ten on busy cores."""


Meanwhile = Callable[[WireEvent, TurnPrinter], Awaitable[None]]


class Choice(Struct, frozen=True):
    """The model that answers, and its provider."""

    label: str
    provider_type: str
    name: str
    base_url: str | None = None
    api_key: str | None = None
    small: bool = False


async def demo() -> None:
    """Run the whole demo.

    Raises:
        CommandFailed: a check failed.
    """
    task = asyncio.current_task()
    if task is not None:
        # Clean up after these signals too.
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    started = time.monotonic()
    show = Show(Screen())
    show.title("Perdure: a session is killed at work, and resumes")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-demo-")))
        choice = await _choose_model(show, stack)
        server = DemoServer(folder)
        stack.push_async_callback(server.stop)
        with show.step("server") as step:
            await server.start()
            step.summary = f"{server.url}, process {server.pid}, SQLite in {folder}"
        client = await stack.enter_async_context(Client(server.url))
        await Demo(show, server, client, choice).play()
    show.ending(time.monotonic() - started, small=choice.small)


async def _choose_model(show: Show, stack: AsyncExitStack) -> Choice:
    """Choose a vendor's model if the environment has a key, else the small model on this machine."""
    requested = os.environ.get("PERDURE_DEMO_MODEL")
    for vendor in VENDORS:
        key = os.environ.get(vendor.key_variable)
        if key:
            name = requested or vendor.small_model_id
            reason = f"because {vendor.key_variable} is set (PERDURE_DEMO_MODEL selects another)"
            show.line("model", f"{name}, {reason}")
            address = os.environ.get(vendor.address_variable) or None
            return Choice(name, vendor.provider_type, name, address, key)
    with show.step("model", "loading the small model") as step:
        local = await start_local_model(cache_folder())
        stack.push_async_callback(local.stop)
        step.summary = "SmolLM2, 135 million parameters, on this machine (llama.cpp); no API key, no network"
    return Choice(local.model_name, "openai_completions", local.model_name, local.base_url, small=True)


class Demo:
    """The demo's acts, played on one server with one client."""

    def __init__(self, show: Show, server: DemoServer, client: Client, choice: Choice) -> None:
        self._show = show
        self._server = server
        self._client = client
        self._choice = choice
        self._sent: list[str] = []

    async def play(self) -> None:
        """Play all acts in order."""
        with self._show.step("set up") as step:
            model = await self._register(self._choice)
            session = await self._make_session(model)
            step.summary = f"provider, model, agent and session, over HTTP: {session.id}"
        self._show.gap()
        await self._ask(session)
        await self._use_tool(session)
        await self._rename(session)
        await self._kill_and_continue(session)
        await self._check_log(session)

    async def _register(self, choice: Choice) -> Model:
        provider = await self._client.create_provider(
            name=f"demo {choice.label}",
            provider_type=choice.provider_type,
            base_url=choice.base_url,
            api_key=choice.api_key,
        )
        return await self._client.create_model(provider.id, model_id=choice.name, display_name=choice.label)

    async def _make_session(self, model: Model) -> Session:
        tools = (CapabilityRef("current_time"),)
        agent = await self._client.create_agent(
            name="demo",
            system_prompt=PROMPT,
            default_model_id=model.id,
            harness_name="base",
            capabilities=tools,
        )
        return await self._client.create_session(agent_id=agent.id, title="Demo")

    # --- one turn -------------------------------------------------------------

    async def _turn(
        self,
        session: Session,
        text: str,
        *,
        controls: Controls | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> list[WireEvent]:
        """Send a message, print and return the turn's events; the turn must complete."""
        self._show.you(text.partition(" [[sim ")[0])
        self._sent.append(text)
        events: list[WireEvent] = []
        printer = self._show.printer()
        printer.wait()
        stream = self._client.run(session.id, text, controls=controls)
        try:
            async with asyncio.timeout(TURN_TIMEOUT), aclosing(stream):
                async for event in stream:
                    printer.show(event)
                    events.append(event)
                    if meanwhile is not None:
                        await meanwhile(event, printer)
        except TimeoutError:
            raise CommandFailed(f"the demo failed: a turn took longer than {TURN_TIMEOUT:.0f} s") from None
        finally:
            printer.close()
        failure = turn_failure(events[-1])
        _require(failure is None, f"the turn did not complete: {failure} ({events[-1].type})")
        return events

    async def _ask(self, session: Session) -> None:
        events = await self._turn(session, QUESTION)
        _require(_answer(events), "the model's answer was empty")
        self._show.done(events[-1])

    async def _use_tool(self, session: Session) -> None:
        events: list[WireEvent] = []
        if not self._choice.small:
            events = await self._turn(session, TOOL_QUESTION)
        if not any(_is_clock(event) for event in events):
            self._show.remark(
                "A model this small cannot use tools. In the next turn the simulated model replaces it:\n"
                "it follows a script in the message. The tool, the log and the loop are real."
                if self._choice.small
                else "The model did not use the tool, so the simulated model shows a tool call."
            )
            self._show.gap()
            simulated = await self._register(Choice("the simulated model", "llmsim", "llmsim"))
            events = await self._turn(session, _clock_script(), controls=Controls(model_id=simulated.id))
        _require(any(_is_clock(event) for event in events), "no tool ran")
        self._show.done(events[-1])

    async def _rename(self, session: Session) -> None:
        with self._show.step("PATCH") as step:
            changed = await self._client.update_session(session.id, title=TITLE, tags=TAGS)
            _require(changed.title == TITLE and changed.tags == TAGS, "the session was not renamed")
            step.summary = "renamed and tagged"
        print_session(changed)
        self._show.gap()

    # --- the kill -------------------------------------------------------------

    async def _kill_and_continue(self, session: Session) -> None:
        """Kill the server while a long answer streams, restart it, and wait for the end of the turn."""
        killed: datetime | None = None

        async def strike(event: WireEvent, printer: TurnPrinter) -> None:
            nonlocal killed
            if killed is None and _is_under_way(event):
                printer.close()
                killed = await self._kill_and_restart()
                printer.wait("the turn resumes by itself")

        events = await self._turn(session, STORY, meanwhile=strike)
        if killed is None:
            raise CommandFailed("the demo failed: the answer ended before the server could be killed")
        _require(
            datetime.fromisoformat(events[-1].ts) > killed, "the turn ended before the server was killed"
        )
        self._show.done(events[-1])

    async def _kill_and_restart(self) -> datetime:
        pid = self._server.pid
        await self._server.kill()
        moment = datetime.now(UTC)
        self._show.line("kill -9", f"process {pid} died in the middle of a sentence", "red")
        with self._show.step("restart", "starting the server again") as step:
            await self._server.start()
            step.summary = f"same data, new process ({self._server.pid}); the client reconnects automatically"
        return moment

    # --- the proof ------------------------------------------------------------

    async def _check_log(self, session: Session) -> None:
        with self._show.step("check", "reading the whole log") as step:
            events = await self._whole_log(session)
            numbers = [event.sequence for event in events]
            _require(numbers == list(range(1, len(events) + 1)), f"the log has gaps: {numbers}")
            received = [
                text_of(data_of(event).message.content) for event in events if event.type == "input.message"
            ]
            _require(received == self._sent, "a message is missing or duplicated")
            turns = Counter(event.context.turn_id for event in events if event.type == "turn.started")
            ends = Counter(event.context.turn_id for event in events if event.type in ENDED_TURN)
            _require(
                turns == ends and set(ends.values()) == {1},
                f"a turn did not end exactly once: {turns}, {ends}",
            )
            now = await self._client.get_session(session.id)
            _require(
                (now.status, now.title, now.tags) == ("idle", TITLE, TAGS),
                "the session's status, title or tags have changed",
            )
            step.summary = (
                f"{len(events)} events, numbered 1 to {len(events)} without a gap; "
                f"{len(received)} messages, none lost or duplicated; "
                f"{len(turns)} turns, each ended once; title and tags kept"
            )
        self._show.gap()

    async def _whole_log(self, session: Session) -> list[WireEvent]:
        events: list[WireEvent] = []
        while page := await self._client.list_events(session.id, after_sequence=len(events), limit=500):
            events.extend(page)
        return events


def _clock_script() -> str:
    steps = [
        {"tool_calls": [{"name": "get_current_time", "arguments": {}}]},
        {"text": "That is the time on the server's clock."},
    ]
    return f"{TOOL_QUESTION} [[sim {json.dumps(steps)}]]"


def _is_clock(event: WireEvent) -> bool:
    return (
        event.type == "tool.completed"
        and data_of(event).tool_name == "get_current_time"
        and data_of(event).success
    )


def _is_under_way(event: WireEvent) -> bool:
    return event.type == "output.message.delta" and len(data_of(event).accumulated) >= KILL_AFTER


def _answer(events: list[WireEvent]) -> str:
    texts = [
        text_of(data_of(event).message.content)
        for event in events
        if event.type == "output.message.completed"
    ]
    return texts[-1].strip() if texts else ""


def _require(condition: object, failure: str) -> None:
    if not condition:
        raise CommandFailed(f"the demo failed: {failure}")


class Step:
    """A running step; `summary` is printed beside its name when it is done."""

    summary = ""


class Show:
    """The demo's output: one line per step, with a spinner while it runs on a terminal."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def gap(self) -> None:
        self._screen.line()

    def title(self, text: str) -> None:
        self._screen.line((f"\n{text}\n", "bold"))

    @contextmanager
    def step(self, name: str, activity: str = "") -> Iterator[Step]:
        """Show the step, and its duration from 0.1 s on."""
        step, started = Step(), time.monotonic()
        with self._screen.status(f"{activity or name} ...") or nullcontext():
            yield step
        took = time.monotonic() - started
        self.line(name, step.summary + (f"  {duration(took * 1000)}" if took >= 0.1 else ""))

    def line(self, name: str, text: str, style: str = "green") -> None:
        self._screen.line((f"{name:<10}", style), self._folded(text))

    def _folded(self, text: str) -> str:
        """Wrap the text within its column on a terminal."""
        width = self._screen.width
        if width is None:
            return text
        return textwrap.fill(text, max(width - 11, 30)).replace("\n", "\n" + " " * 10)

    def remark(self, text: str) -> None:
        self._screen.line((text, "dim"))

    def you(self, text: str) -> None:
        self._screen.line(("you       ", "bold cyan"), text)

    def printer(self) -> TurnPrinter:
        return TurnPrinter(self._screen, indent=" " * 10)

    def done(self, event: WireEvent) -> None:
        """Sum up a completed turn."""
        data = data_of(event)
        usage = data.usage
        tokens = f", {usage.output_tokens} tokens" if usage is not None else ""
        first = data.time_to_first_token_ms
        started = f", first word after {duration(first)}" if first is not None else ""
        line = f"          turn completed in {duration(data.duration_ms)}{started}{tokens}\n"
        self._screen.line((line, "dim"))

    def ending(self, seconds: float, *, small: bool) -> None:
        """Say what to do next.

        Args:
            seconds: the duration of the demo.
            small: whether the small model of this machine answered.
        """
        command, option = _own_name(), " --local-model" if small else ""
        self._screen.line(
            ("Everything above was verified.", "bold green"), (f"  {duration(seconds * 1000)}\n", "dim")
        )
        self._screen.line("Next steps, each in a terminal of its own:")
        with_it = " with this small model" if small else ""
        self._screen.line((f"  {command} serve{option}", "bold"), f"  # starts your own server{with_it}")
        self._screen.line((f"  {command} chat", "bold"), "  # talks to an agent")
        self._screen.line(
            (f"  {command} providers add openai", "bold"), "  # adds a vendor; asks for your key"
        )
        self._screen.line(
            f"While the server runs, {DEFAULT_URL}/docs shows its API, and what each error code means."
        )


def _own_name() -> str:
    """Return a command that starts this program from the current folder, also if it is not on PATH."""
    program = Path(sys.executable).with_name("perdure")
    found = shutil.which("perdure")
    if not program.exists() or (found is not None and Path(found).samefile(program)):
        return "perdure" if found is not None else f"{shlex.quote(sys.executable)} -m perdure"
    here = Path.cwd()
    shown = program.relative_to(here) if program.is_relative_to(here) else program
    return shlex.quote(str(shown))
