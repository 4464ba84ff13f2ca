"""A simulated model that plays a script (`llmsim`).

It serves tests, demonstrations and benchmarks, and needs no key and no network.

The newest user message contains the script, so it survives restarts and passes through the whole server
unchanged:

    And the weather? [[sim [{"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}, {"text":
    "Sun."}]]]

A call that asks for a typed result and has no script gets a small value that fits the schema.

A script is a JSON array of steps (or one step). The number of agent messages since that user message is the
index of the step to play. After the last step, the model repeats the script's last text, or says "Done.".
Without a script, it introduces itself and quotes the message. `Step` documents the fields of a step.

A model whose name ends in `-cached` counts, like a vendor with a cache of prompts, what begins with the same
bytes as a call before: the tools, the system prompt, and each message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from json import JSONDecodeError, JSONDecoder
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Message, ToolCallPart, ToolResultPart, Usage, text_of
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, OutputFormat
from perdure.llm.sample_values import sample

PROVIDER_TYPE = "llmsim"
MODEL = "llmsim"
CACHED = "-cached"
"""The end of the names of models that count cached tokens."""

MAX_TOKENS = 1_000_000
"""Maximum number of words in one simulated answer."""

_TRANSIENT = frozenset(
    {"provider_rate_limited", "provider_unavailable", "provider_timeout", "provider_bad_response"}
)
_OPEN = "[[sim "
_WORDS = re.compile(r"\S+\s*")
# Words between two yields to the event loop, when there is no delay.
_YIELD_EVERY = 64
# Newest messages whose words count as input tokens, so that the work does not grow with the session.
_COUNTED_MESSAGES = 64
_REMEMBERED = 10_000

Millis = Annotated[float, Meta(ge=0, le=86_400_000)]
Count = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class SimulatedCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to make. Without an id, it gets one that is the same in every attempt."""

    name: str
    arguments: Any = {}
    id: str | None = None


class SimulatedFailure(Struct, frozen=True, forbid_unknown_fields=True):
    """A failure before the first word.

    Attributes:
        code: a code of `ModelError`.
        message: the vendor's error message.
        status: the vendor's HTTP status.
        transient: whether a retry may succeed; the default depends on the code.
        retry_after: seconds that the vendor asks to wait.
        times: how many attempts fail, counted in this process; None for all.
    """

    code: str = "provider_unavailable"
    message: str = "simulated failure"
    status: int | None = None
    transient: bool | None = None
    retry_after: float | None = None
    times: Count | None = None


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """One answer of the simulated model.

    Attributes:
        text: the answer's text.
        output: a value in place of the text, as JSON in the form that the call asks for.
        tokens: how many words to add after the text; the last one is `END.`.
        thinking: the thinking, sent before the text.
        tool_calls: the tool calls to make.
        first_ms: milliseconds to wait before the answer or the failure.
        delay_ms: milliseconds before each word.
        fail: a failure in place of the answer.
        cut_after: break the stream after this many words.
        cut_times: how many attempts break, counted in this process; None for all.
        usage: token counts by name, in place of the counted words.
        finish_reason: a value in place of `stop` or `tool_calls`.
    """

    text: str = ""
    tokens: Count = 0
    thinking: str | None = None
    tool_calls: tuple[SimulatedCall, ...] = ()
    first_ms: Millis = 0
    delay_ms: Millis = 0
    fail: SimulatedFailure | None = None
    cut_after: Count | None = None
    cut_times: Count | None = None
    usage: JsonObject | None = None
    finish_reason: str | None = None
    output: Any = UNSET


Script = Sequence[Step | JsonObject] | Callable[[ModelRequest], Step | JsonObject]


class SimulatedDriver:
    """The simulated model. A script in a user message takes precedence over `script`.

    Args:
        script: the steps to play, selected as in a message; or a function from the request to its step.
        record: whether to store requests in `requests`; by default only if there is a script.
        sleep: waits for a number of seconds; simulations pass their own.

    Attributes:
        requests: the recorded requests, oldest first.
    """

    provider_type = PROVIDER_TYPE

    def __init__(
        self,
        script: Script | None = None,
        *,
        record: bool | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._make = script if callable(script) else None
        self._script = None if script is None or callable(script) else [_step(step) for step in script]
        self._record = script is not None if record is None else record
        self._sleep = sleep
        self._attempts: dict[tuple[str, int, str], int] = {}
        self._known: dict[bytes, None] = {}
        self.requests: list[ModelRequest] = []

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Play one step. Raises: ModelError: the step is a failure, or the script is invalid."""
        if self._record:
            self.requests.append(request)
        prompt, number = _newest_prompt(request.messages)
        step = _with_output(self._step_for(request, prompt, number), request.output)
        key = prompt.id if prompt is not None else ""
        await self._sleep(step.first_ms / 1000)
        if step.fail is not None and self._due(key, number, "fail", step.fail.times):
            raise _failure(step.fail)
        if step.thinking:
            on_delta("thinking", step.thinking)
        cut = (
            step.cut_after
            if step.cut_after is not None and self._due(key, number, "cut", step.cut_times)
            else None
        )
        text, whole = await self._say(step, cut, on_delta, request.max_output_tokens)
        calls = tuple(_call(call, key, number, index) for index, call in enumerate(step.tool_calls))
        return ModelResponse(
            text=text,
            tool_calls=calls,
            thinking=step.thinking or None,
            usage=_usage(request, step, text, self._cached(request)),
            finish_reason=step.finish_reason or ("tool_calls" if calls else "stop" if whole else "length"),
            response_id=f"llmsim_{_digest(key, number)}",
            model=request.model,
        )

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return nothing: the simulated model has no body."""
        return frozenset()

    async def list_models(self) -> list[ListedModel]:
        """List the only model; calls may use any name."""
        return [ListedModel(MODEL, "Simulated model")]

    def _cached(self, request: ModelRequest) -> int:
        """The words that begin like a call before; remembers how this one begins."""
        if not request.model.endswith(CACHED):
            return 0
        found = words = 0
        digest = blake2b(msgspec.json.encode(request.tools))
        parts = ((request.system, len(request.system.split())), *map(_cacheable, request.messages))
        for text, count in parts:
            digest.update(f"\0{text}".encode())
            words += count
            key = digest.digest()
            found = words if key in self._known else found
            self._known.pop(key, None)
            self._known[key] = None
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return found

    def _step_for(self, request: ModelRequest, prompt: Message | None, number: int) -> Step:
        if self._make is not None:
            return _step(self._make(request))
        text = text_of(prompt.content) if prompt is not None else ""
        script = _script_in(text) if _OPEN in text else self._script
        if script is None:
            return Step(text=_echo(text)) if request.output is None else Step(output=sample(request.output))
        if number < len(script):
            return script[number]
        for step in reversed(script):
            if step.text or step.output is not UNSET:
                return Step(text=step.text, output=step.output)
        return Step(text="Done.")

    async def _say(
        self, step: Step, cut: int | None, on_delta: OnDelta, limit: int | None
    ) -> tuple[str, bool]:
        """Say the step's words, at most `limit`; return them, and whether these are all."""
        words = _words_of(step.text)
        if step.tokens:
            gap = [" "] if words and not words[-1][-1].isspace() else []
            words += [*gap, *("word " for _ in range(step.tokens - 1)), "END."]
        said = words[:limit]
        delay = step.delay_ms / 1000
        for count, word in enumerate(said):
            if count == cut:
                break
            if delay or count % _YIELD_EVERY == 0:
                await self._sleep(delay)
            on_delta("text", word)
        if cut is not None:
            raise ModelError("simulated: the stream was cut", code="provider_bad_response", transient=True)
        return "".join(said), len(said) == len(words)

    def _due(self, message: str, number: int, what: str, times: int | None) -> bool:
        """Count this attempt; return whether it is one of the first `times`."""
        if times is None:
            return True
        key = (message, number, what)
        seen = self._attempts.get(key, 0)
        self._attempts[key] = seen + 1
        if len(self._attempts) > _REMEMBERED:
            del self._attempts[next(iter(self._attempts))]
        return seen < times


def _with_output(step: Step, form: OutputFormat | None) -> Step:
    """The step with its value as text, in the form that is asked for."""
    if step.output is UNSET:
        return step
    properties = {} if form is None else form.schema.get("properties", {})
    wraps = list(properties) == ["value"] and not (isinstance(step.output, dict) and "value" in step.output)
    value = {"value": step.output} if wraps else step.output
    return msgspec.structs.replace(step, text=msgspec.json.encode(value).decode())


def _words_of(text: str) -> list[str]:
    """The words of a text, each with the white space after it; the first one also with that before it."""
    words: list[str] = _WORDS.findall(text)
    if not words:
        return [text] if text else []
    words[0] = text[: len(text) - len(text.lstrip())] + words[0]
    return words


def _newest_prompt(messages: Sequence[Message]) -> tuple[Message | None, int]:
    """Return the newest user message, and the number of agent messages after it."""
    answers = 0
    for message in reversed(messages):
        if message.role == "user":
            return message, answers
        if message.role == "agent":
            answers += 1
    return None, answers


def _step(value: Step | JsonObject) -> Step:
    if isinstance(value, Step):
        return value
    try:
        return msgspec.convert(value, Step)
    except msgspec.ValidationError as error:
        raise _invalid_script(str(error)) from None


def _script_in(text: str) -> list[Step]:
    """The last script in a text. One inside another's texts is a part of that: it is for a sub-agent."""
    found: Any = None
    wrong: ModelError | None = None
    start = text.find(_OPEN)
    while start >= 0:
        end = start + len(_OPEN)
        try:
            found, end = _read_script(text, end)
            wrong = None
        except ModelError as error:
            wrong = error
        start = text.find(_OPEN, end)
    if wrong is not None:
        raise wrong
    return [_step(step) for step in (found if isinstance(found, list) else [found])]


def _read_script(text: str, start: int) -> tuple[object, int]:
    """Read the script that begins here; return it, and where it ends."""
    try:
        value, end = JSONDecoder().raw_decode(text, len(text) - len(text[start:].lstrip()))
    except (JSONDecodeError, RecursionError) as error:
        raise _invalid_script(str(error)) from None
    if not text[end:].lstrip().startswith("]]"):
        raise _invalid_script("`]]` must follow the JSON")
    return value, end


def _invalid_script(why: str) -> ModelError:
    return ModelError(f"the simulated model's script is invalid: {why}", code="invalid_model_request")


def _failure(failure: SimulatedFailure) -> ModelError:
    return ModelError(
        failure.message,
        code=failure.code,
        transient=failure.code in _TRANSIENT if failure.transient is None else failure.transient,
        retry_after=failure.retry_after,
        status=failure.status,
    )


def _call(call: SimulatedCall, message: str, number: int, index: int) -> ToolCallPart:
    call_id = ToolCallId(call.id or f"call_{_digest(message, number, index)}")
    return ToolCallPart(call_id, call.name, call.arguments)


def _digest(*parts: str | int) -> str:
    return blake2b("/".join(map(str, parts)).encode(), digest_size=12).hexdigest()


def _echo(prompt: str) -> str:
    line = " ".join(prompt.split())
    excerpt = line if len(line) <= 200 else line[:199] + "…"
    quote = f" You said: “{excerpt}”" if excerpt else ""
    return f"Hello! I am Perdure's simulated model: I follow scripts and do not think.{quote}"


def _cacheable(message: Message) -> tuple[str, int]:
    """What a cache knows a message by, and its words."""
    return f"{message.role}{msgspec.json.encode(message.content).decode()}", _words(message)


def _usage(request: ModelRequest, step: Step, text: str, cached: int) -> Usage:
    """Count the words of the system prompt, the newest messages and the answer as tokens."""
    newest = request.messages[-_COUNTED_MESSAGES:]
    input_tokens = len(request.system.split()) + sum(_words(message) for message in newest)
    output_tokens = len(text.split()) + len((step.thinking or "").split()) + len(step.tool_calls)
    counts = {"input_tokens": input_tokens, "output_tokens": output_tokens, **(step.usage or {})}
    if cached:
        counts.setdefault("cache_read_tokens", min(cached, input_tokens))
    try:
        return msgspec.convert(counts, Usage)
    except msgspec.ValidationError as error:
        raise _invalid_script(f"usage: {error}") from None


def _words(message: Message) -> int:
    words = len(text_of(message.content).split())
    for part in message.content:
        if isinstance(part, ToolResultPart) and isinstance(part.result, str):
            words += len(part.result.split())
    return words
