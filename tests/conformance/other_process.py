"""Another process on the same database, for tests that need a real one.

`python -m tests.conformance.other_process`.

It is told what to be, says what it does in lines on its standard output, and ends when its standard input
does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from perdure.domain.events import Event
from perdure.domain.ids import SessionId
from perdure.store.bus import Appended, Live
from perdure.store.migrate import migrate
from perdure.store.postgres.bus import PostgresBus
from perdure.store.postgres.notify import open_notifier
from perdure.store.postgres.queue import open_postgres_queue
from perdure.store.queue import Job
from tests.conformance.places import open_database, postgres, soon
from tests.server import MEASURED


class Other:
    """The test's side of the connection to it."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return (await soon(self.process.stdout.readline())).decode().strip()

    def tell(self, line: str) -> None:
        """Have it read a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        await soon(self.process.wait())


@asynccontextmanager
async def other_process(*arguments: str) -> AsyncIterator[Other]:
    """Start another process; kill it at the end of the block if it still runs."""
    root = Path(__file__).parents[2]
    unmeasured = {name: value for name, value in os.environ.items() if name != MEASURED}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, *arguments, stdin=PIPE, stdout=PIPE, cwd=root, env=unmeasured
    )
    try:
        yield Other(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await soon(process.wait())


def say(line: str) -> None:
    print(line, flush=True)


async def hear() -> AsyncIterator[str]:
    """Yield the test's commands, line by line."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield line.strip()


async def migrating(url: str) -> None:
    database = await open_database(url)
    say("ready")
    async for _ in hear():
        say(",".join(await migrate(database)) or "nothing")
    await database.close()


async def working(url: str) -> None:
    """Take jobs, and never finish one. Each line that it reads is a session to enqueue."""
    database = postgres(await open_database(url))
    notifier = await open_notifier(database)
    queue = await open_postgres_queue(database, notifier)

    async def handle(job: Job) -> None:
        say(f"{job.org_id} {job.session_id}")
        await asyncio.Event().wait()

    await queue.start(handle)
    say("ready")
    async for line in hear():
        await database.write(partial(queue.enqueue, job=Job("org_1", SessionId(line))))
    await queue.close()
    await notifier.close()
    await database.close()


async def speaking(url: str, session_id: str) -> None:
    """Publish each line that it reads as live text, like a runner, and then that the log has grown."""
    database = postgres(await open_database(url))
    notifier = await open_notifier(database)
    bus = PostgresBus(database, notifier)
    say("ready")
    whole = ""
    async for line in hear():
        before, whole = whole, whole + line
        bus.publish(
            Live(
                session_id, "turn", "message", "text", 1, len(before), line, whole, context='{"turn_id":"t"}'
            )
        )
        grown = Event("event", session_id, len(whole), "input.message", 0, "{}", "{}", None, None)
        bus.publish(Appended(session_id, len(whole), (grown,)))
    await bus.close()
    await notifier.close()
    await database.close()


ROLES = {"migrate": migrating, "work": working, "speak": speaking}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](*sys.argv[2:]))
