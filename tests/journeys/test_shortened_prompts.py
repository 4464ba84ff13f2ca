"""Prompts that a model refuses as too long, with an engine in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from perdure.domain.events import TurnFailedData
from perdure.domain.history import estimate_tokens
from perdure.domain.tools import CapabilityRef
from perdure.llm.driver import ModelRequest
from tests.journeys.mcp_inside import Host, hosting
from tests.talk import Json

SUMMARY = "memory of an agent"
"""Part of the prompt that asks for a summary."""
LONG = "y " * 1_500

Script = Callable[[ModelRequest], Json]


def size_of(request: ModelRequest) -> int:
    return sum(map(estimate_tokens, request.messages))


def failing(code: str, message: str = "", status: int = 400) -> Json:
    return {"fail": {"code": code, "message": message, "status": status, "transient": False}}


def narrow(most: int, code: str, message: str = "", *, summaries: bool = False) -> Script:
    """A model that refuses histories of more tokens than this, with these words."""

    def script(request: ModelRequest) -> Json:
        if SUMMARY in request.system:
            return {"text": "They talked."} if summaries else failing("provider_auth", "no summaries")
        return failing(code, message) if size_of(request) > most else {"text": LONG}

    return script


def scripted(host: Host, script: Script) -> Host:
    host.driver._make = script
    return host


async def failures(host: Host) -> list[str | None]:
    found = [event.get(TurnFailedData) for event in await host.log()]
    return [each.error_code for each in found if each is not None]


async def talk(folder: Path, script: Script, turns: int = 5) -> tuple[list[int], list[str | None]]:
    """Let a user say something long several times; the sizes of all requests, and how turns failed."""
    async with hosting("", folder) as host:
        scripted(host, script)
        for _ in range(turns):
            await host.ask(LONG)
        return [size_of(each) for each in host.driver.requests if SUMMARY not in each.system], await failures(
            host
        )


async def test_a_limit_that_the_model_names_is_kept_from_then_on(tmp_path: Path) -> None:
    said = "This model's maximum context length is 6000 tokens."
    sizes, failed = await talk(tmp_path, narrow(6_000, "context_length_exceeded", said), turns=8)
    assert failed == []
    refused = [size for size in sizes if size > 6_000]
    assert len(refused) == 1, "no refusal is paid for twice"


async def test_half_of_a_history_is_tried_after_a_refusal_without_a_reason(tmp_path: Path) -> None:
    sizes, failed = await talk(tmp_path, narrow(6_000, "invalid_model_request", "no"), turns=8)
    assert failed == []
    refused = [at for at, size in enumerate(sizes) if size > 6_000]
    assert refused
    for at in refused:
        assert sizes[at + 1] <= sizes[at] // 2 + 10
    assert len(refused) == 1, "what was accepted is remembered"


async def test_a_refusal_without_a_limit_ends_after_some_attempts(tmp_path: Path) -> None:
    sizes, failed = await talk(tmp_path, narrow(10, "context_length_exceeded"), turns=1)
    assert failed == ["context_length_exceeded"]
    assert len(sizes) <= 4


async def test_a_summary_takes_the_place_of_what_is_too_long(tmp_path: Path) -> None:
    said = "prompt is too long: 9000 tokens > 6000 maximum"
    script = narrow(6_000, "context_length_exceeded", said, summaries=True)
    async with hosting("", tmp_path, refs=(CapabilityRef("context_compaction"),)) as host:
        scripted(host, script)
        for _ in range(6):
            await host.ask(LONG)
        assert await failures(host) == []
        assert "context.compacted" in [event.type for event in await host.log()]
        assert any("They talked." in str(request.messages[0].content) for request in host.driver.requests)


async def test_a_prompt_that_fits_is_sent_again_with_a_shorter_answer(tmp_path: Path) -> None:
    def script(request: ModelRequest) -> Json:
        if request.max_output_tokens is None:
            said = "This model's maximum context length is 100000 tokens, you requested 120000."
            return failing("context_length_exceeded", said)
        return {"text": "Fine."}

    async with hosting("", tmp_path) as host:
        scripted(host, script)
        await host.ask()
        first, second = host.driver.requests
        assert first.max_output_tokens is None
        assert 90_000 < (second.max_output_tokens or 0) < 100_000
        assert await failures(host) == []


async def test_the_longest_answer_that_is_permitted_is_asked_for_from_then_on(tmp_path: Path) -> None:
    said = "max_tokens is too large: 1048576. This model supports at most 4096 completion tokens"

    def script(request: ModelRequest) -> Json:
        if (request.max_output_tokens or 1 << 20) > 4_096:
            return failing("invalid_model_request", said)
        return {"text": "Fine."}

    async with hosting("", tmp_path) as host:
        scripted(host, script)
        await host.ask()
        await host.ask()
        assert [each.max_output_tokens for each in host.driver.requests] == [None, 4_096, 4_096]
        assert await failures(host) == []
