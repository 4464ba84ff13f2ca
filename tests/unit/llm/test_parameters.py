"""Which of its parameters a call does without, by what its server said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import JsonObject
from perdure.engine.recoveries import MAY_NAME_PARAMETERS, refused_by
from perdure.llm.driver import ProviderConfig
from perdure.llm.failures import in_stream, refusal
from perdure.llm.http import Http
from perdure.llm.parameters import refused_parameters, with_names
from perdure.llm.registry import make_driver
from perdure.llm.settings import without
from tests.unit.llm.talk import WEATHER, ask, user

CHAT, RESPONSES, MESSAGES = "openai_completions", "openai", "anthropic"
SENT = {
    CHAT: {
        "stream",
        "stream_options",
        "parallel_tool_calls",
        "reasoning_effort",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "prompt_cache_key",
        "response_format",
        "tool_choice",
    },
    RESPONSES: {
        "stream",
        "store",
        "include",
        "parallel_tool_calls",
        "max_output_tokens",
        "temperature",
        "prompt_cache_key",
        "reasoning",
        "reasoning.effort",
        "reasoning.summary",
        "strict",
        "text.format",
        "tool_choice",
    },
    MESSAGES: {
        "stream",
        "thinking",
        "thinking.display",
        "output_config",
        "output_config.format",
        "temperature",
        "tool_choice",
        "cache_control",
        "anthropic-beta",
    },
}


def table() -> list[tuple[str, tuple[str, ...], str]]:
    """The rows of the table: the protocol, the parameters that are left out, and what the server answers."""
    blocks = (Path(__file__).parent / "refused_parameters.txt").read_text().split("\n\n")[1:]
    rows = []
    for block in blocks:
        head, *lines = block.splitlines()
        provider_type, _, names = head.partition(" ")
        rows.append((provider_type, tuple(filter(None, names.split(","))), " ".join(lines)))
    return rows


@pytest.mark.parametrize(("provider_type", "names", "body"), table())
@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_refused_parameter_is_found_in_the_words_of_a_server(
    provider_type: str, names: tuple[str, ...], body: str, status: int
) -> None:
    error = refusal(status, {}, body.replace("\\n", "\n").encode(), ())
    assert refused_parameters(error.message, SENT[provider_type]) == names
    if names:
        assert error.code in MAY_NAME_PARAMETERS


@pytest.mark.parametrize(("provider_type", "names", "body"), table())
def test_nothing_is_left_out_that_was_not_sent(provider_type: str, names: tuple[str, ...], body: str) -> None:
    error = refusal(400, {}, body.encode(), ())
    others = SENT[provider_type] - set(names)
    others -= {"max_completion_tokens"}
    assert set(refused_parameters(error.message, others)) <= {"reasoning"}


def test_an_error_in_a_stream_names_its_parameter_too() -> None:
    error = in_stream(
        {"error": {"code": 400, "message": "Not supported here.", "param": "stream_options"}}, ()
    )
    assert error.message == "stream_options: Not supported here."


@pytest.mark.parametrize(
    "error",
    [
        {"message": "The parameter stream_options is not supported.", "param": "stream_options"},
        {"message": "The model is overloaded.", "param": "stream_options"},
        {"message": "Not supported.", "param": "None"},
        {"message": "Not supported.", "param": None},
        {"message": "Not supported.", "path": "/v1/chat/completions"},
        {"message": "Not supported.", "input": {"param": "stream_options"}},
        {"message": "Not supported.", "param": "a sentence with stream_options"},
    ],
)
def test_a_message_gets_no_names_that_it_has_or_that_are_none(error: JsonObject) -> None:
    assert with_names(error["message"], error) == error["message"]


def test_the_names_that_are_added_to_a_message_are_few() -> None:
    detail = [{"loc": ["body", f"field_{n}"], "msg": "Extra inputs are not permitted"} for n in range(99)]
    message = with_names("Extra inputs are not permitted", {"detail": detail})
    assert message.startswith("field_0, field_1, ")
    assert len(message) < 200


async def body_of(provider_type: str, left_out: set[str], **options: object) -> tuple[JsonObject, set[str]]:
    """Return the body of a call with everything, and the parameters that it could do without."""
    http = Http()
    driver = make_driver(ProviderConfig(provider_type, "http://h/v1", "key", dict(options)), http)
    request = ask(
        user("Hello"),
        model="claude-opus-4-6" if provider_type == MESSAGES else "gpt-5",
        system="S",
        tools=(WEATHER,),
        reasoning_effort="low",
        parallel_tool_calls=False,
        max_output_tokens=2_000,
        temperature=1.0,
        cache_key="session_1",
        prompt_caching=True,
        left_out=frozenset(left_out),
    )
    body: JsonObject = msgspec.json.decode(driver.encoded(request))  # type: ignore[attr-defined]
    await http.close()
    return body, set(driver.optional(request))


@pytest.mark.parametrize("provider_type", [CHAT, RESPONSES, MESSAGES])
async def test_a_driver_leaves_out_what_it_is_told_and_says_what_it_still_sends(provider_type: str) -> None:
    whole, optional = await body_of(provider_type, set())
    assert optional
    for name in optional:
        body, left = await body_of(provider_type, {name})
        assert name not in left
        assert body != whole
        head, _, field = name.partition(".")
        assert head not in body or (field and field not in body[head])
        if name not in {"stream", "max_tokens"}:
            assert left >= {each for each in optional if not each.startswith(head)}
    body, left = await body_of(provider_type, SENT[provider_type])
    assert left == set()
    needed = {
        CHAT: {"messages", "tools", "model"},
        RESPONSES: {"input", "tools", "model", "instructions"},
        MESSAGES: {"messages", "tools", "model", "system", "max_tokens"},
    }
    assert set(body) == needed[provider_type]
    assert "cache_control" not in str(body)
    assert "strict" not in str(body)


async def test_a_request_that_its_driver_refuses_is_not_made_again() -> None:
    http = Http()
    driver = make_driver(ProviderConfig(MESSAGES, "http://h/v1", "key"), http)
    request = ask(user("Hello"), model="claude-sonnet-4-5", reasoning_effort="odd")
    with pytest.raises(ModelError) as caught:
        await driver.generate(request, lambda kind, text: None)
    assert refused_by(caught.value, driver, request) == ()
    await http.close()


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("invalid_model_request", ("temperature",)),
        ("provider_unavailable", ("temperature",)),
        ("provider_auth", ()),
        ("provider_rate_limited", ()),
        ("model_not_found", ()),
        ("content_filtered", ()),
    ],
)
async def test_only_refusals_of_the_request_name_parameters(code: str, refused: tuple[str, ...]) -> None:
    http = Http()
    driver = make_driver(ProviderConfig(CHAT, "http://h/v1", "key"), http)
    error = ModelError("temperature is not supported", code=code)
    assert refused_by(error, driver, ask(user("Hello"), temperature=0.5)) == refused
    assert refused_by(error, driver, ask(user("Hello"))) == ()
    await http.close()


async def test_the_limit_of_an_answer_goes_by_its_other_name_before_it_is_left_out() -> None:
    body, _ = await body_of(CHAT, set())
    assert body["max_tokens"] == 2_000
    body, left = await body_of(CHAT, {"max_tokens"})
    assert body["max_completion_tokens"] == 2_000
    assert "max_tokens" not in body
    assert "max_completion_tokens" in left
    body, _ = await body_of(CHAT, {"max_completion_tokens"}, max_tokens_field="max_completion_tokens")
    assert body["max_tokens"] == 2_000


def test_fields_within_a_setting_are_left_out_alone() -> None:
    settings = {"reasoning": {"effort": "low", "summary": "auto"}, "store": False}
    assert without(settings, ["reasoning.summary"]) == {"reasoning": {"effort": "low"}, "store": False}
    assert without(settings, ["reasoning.summary", "reasoning.effort"]) == {"store": False}
    assert without(settings, ["reasoning", "reasoning.effort", "temperature"]) == {"store": False}
