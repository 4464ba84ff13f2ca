"""What foreign code does stays within its call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from perdure.capabilities.containment import Escaped, contain


async def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def _gathers_what_is_cancelled() -> None:
    await asyncio.gather(_cancels_itself())


RAISED: list[tuple[Callable[[], BaseException], str]] = [
    (lambda: SystemExit(3), "SystemExit"),
    (KeyboardInterrupt, "KeyboardInterrupt"),
    (GeneratorExit, "GeneratorExit"),
    (asyncio.CancelledError, "CancelledError"),
    (lambda: BaseExceptionGroup("both", [KeyboardInterrupt()]), "BaseExceptionGroup"),
]


@pytest.mark.parametrize(("error", "name"), RAISED, ids=[name for _, name in RAISED])
async def test_what_would_stop_the_caller_is_an_ordinary_error(
    error: Callable[[], BaseException], name: str
) -> None:
    async def call() -> None:
        raise error()

    with pytest.raises(Escaped, match=name):
        await contain(call, 10, "a tool")


@pytest.mark.parametrize("call", [_cancels_itself, _gathers_what_is_cancelled])
async def test_a_call_that_cancels_itself_does_not_cancel_its_caller(call: Callable[[], None]) -> None:
    with pytest.raises(Escaped, match="CancelledError"):
        await contain(call, 10, "a tool")  # type: ignore[arg-type]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_results_and_ordinary_errors_pass() -> None:
    async def result() -> int:
        return 7

    async def failure() -> None:
        raise ZeroDivisionError("oops")

    assert await contain(result, 10, "a tool") == 7
    with pytest.raises(ZeroDivisionError, match="oops"):
        await contain(failure, 10, "a tool")


async def test_a_call_that_ignores_its_time_limit_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = asyncio.Event()

    async def stubborn() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError):
        await contain(stubborn, 0.01, "the tool stubborn", grace=0.01)
    assert "the tool stubborn ignores its cancellation" in caplog.text
    free.set()


async def test_the_call_ends_with_its_caller() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(contain(call, 10, "a tool"))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
