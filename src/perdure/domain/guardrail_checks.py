"""The configuration of the capability `guardrails`: its checks, as clients write them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

GuardrailStage = Literal["output", "tool_use", "tool_output"]
GuardrailAction = Literal["block", "log", "replace", "ask"]

GUARDRAILS = "guardrails"
"""The id of the capability."""

MAX_CHECKS = 50
"""Checks of one configuration."""
MAX_WORDS, MAX_WORD = 1_000, 100
"""Entries of one block list, and characters of an entry."""
MAX_HOSTS = 200
MAX_PATTERN = 1_000
"""Characters of a regular expression."""
MAX_WINDOW = 10_000
"""The most characters that a stream is held back by."""
MAX_POLICY = 8_000
"""Characters of a judge's policy."""

_Stages = Annotated[tuple[GuardrailStage, ...], Meta(min_length=1, max_length=3)]
_STAGE = Meta(
    description=(
        "What is checked: `output`: the model's answer, with its thinking; `tool_use`: the arguments of "
        "a tool call, before it runs; `tool_output`: a tool's result, before the model reads it. A list: "
        "each of them."
    ),
    examples=["output"],
)
_ACTION = Meta(
    description=(
        "`block`: an answer is replaced as a whole, a tool call does not run, a result is withheld; `log`: "
        "nothing but an event; `replace`: only what matched is replaced; `ask`: the tool call needs approval "
        "(only for `tool_use`)."
    )
)
_Id = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$(?!\n)")]
_ID = Meta(
    description="What events and hits call the check; by default its type and its place in the list.",
    examples=["no_card_numbers"],
)
_Replacement = Annotated[str, Meta(max_length=1000)]
_REPLACEMENT = Meta(description="The text that takes the place of what was blocked or replaced.")
_Reason = Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,64}$(?!\n)")]
_REASON = Meta(description="A stable word for programs, in events and hits; by default the type says it.")
_IGNORE_CASE = Meta(description="Whether upper and lower case are the same.")
_Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN)]
_PATTERN = Meta(
    description="A regular expression in the syntax of RE2, which has no look-around and no back-references."
)
_MAX_LENGTH = Meta(
    description=(
        "The longest match that must be found, in characters, for a pattern without a limit (`.*`). An "
        " answer is held back by so much while it streams; without it, until it is complete."
    )
)

PiiKind = Literal["credit_card", "iban", "national_id", "email", "phone", "ip_address"]


class Check(
    Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"
):
    """What all checks have."""

    stage: Annotated[GuardrailStage | _Stages, _STAGE] = "output"
    action: Annotated[GuardrailAction, _ACTION] = "block"
    id: Annotated[_Id | None, _ID] = None
    replacement: Annotated[_Replacement | None, _REPLACEMENT] = None
    reason_code: Annotated[_Reason | None, _REASON] = None

    def __post_init__(self) -> None:
        if self.action == "ask" and self.stages != ("tool_use",):
            raise ValueError('the action `ask` needs the stage "tool_use": only a call can wait for approval')

    @property
    def stages(self) -> tuple[GuardrailStage, ...]:
        """The stages at which the check applies."""
        return self.stage if isinstance(self.stage, tuple) else (self.stage,)


class RegexCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="regex"):
    """Text that matches a regular expression."""

    pattern: Annotated[_Pattern, _PATTERN]
    ignore_case: Annotated[bool, _IGNORE_CASE] = False
    max_length: Annotated[Annotated[int, Meta(ge=1, le=MAX_WINDOW)] | None, _MAX_LENGTH] = None


class BlocklistCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="blocklist"):
    """Words and phrases."""

    words: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_WORD)], ...],
        Meta(description="The words and phrases.", min_length=1, max_length=MAX_WORDS),
    ]
    ignore_case: Annotated[bool, _IGNORE_CASE] = True
    whole_words: Annotated[bool, Meta(description="Whether a match must not be a part of a longer word.")] = (
        True
    )


class ToolPatternCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="tool_pattern"):
    """Calls or results of certain tools."""

    tool: Annotated[
        str,
        Meta(
            description="The tool's name; `*` stands for any characters, `?` for one.",
            pattern=r"^[a-zA-Z0-9_*?-]{1,100}$(?!\n)",
            examples=["mcp_github__*"],
        ),
    ]
    pattern: Annotated[
        _Pattern | None,
        Meta(description="Only calls whose arguments (as JSON), or results whose text, match this pattern."),
    ] = None
    ignore_case: Annotated[bool, _IGNORE_CASE] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if "output" in self.stages:
            raise ValueError('it is about tools: set `stage` to "tool_use", "tool_output", or both')


class PiiCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="pii"):
    """Personal data; numbers with checksums count only if the checksum is right."""

    kinds: Annotated[
        tuple[PiiKind, ...],
        Meta(description="What is looked for; by default everything.", min_length=1, max_length=6),
    ] = ("credit_card", "iban", "national_id", "email", "phone", "ip_address")
    countries: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[a-z]{2}$(?!\n)")], ...],
        Meta(description="The countries of national ids; by default all that are known.", max_length=50),
    ] = ()


class UrlAllowlistCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="url_allowlist"):
    """URLs of other hosts than these, also in Markdown links and images."""

    hosts: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...],
        Meta(
            description="The hosts that are allowed; `*.example.com` stands for all hosts below example.com.",
            max_length=MAX_HOSTS,
        ),
    ] = ()


_TIMEOUT = Meta(description="Seconds that the service may take.", ge=0.1, le=60)
_ON_FAILURE = Meta(
    description="What a check that fails, or is not done in time, counts as: `block` (a hit) or `allow`."
)


class ModerationCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="moderation"):
    """A moderation service that is called like OpenAI's."""

    url: Annotated[
        Annotated[str, Meta(max_length=2000)] | None,
        Meta(
            description="The service's URL, if it is not a provider's.",
            examples=["https://m.example/v1/moderations"],
        ),
    ] = None
    provider_id: Annotated[
        str | None,
        Meta(description="The provider whose address and key are used: `/moderations` below its base URL."),
    ] = None
    model: Annotated[
        Annotated[str, Meta(max_length=200)] | None, Meta(description="The name of the moderation model.")
    ] = None
    categories: Annotated[
        tuple[Annotated[str, Meta(max_length=100)], ...],
        Meta(
            description="The categories that count; by default, whatever the service flags.", max_length=100
        ),
    ] = ()
    threshold: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="The score from which a category counts; by default, the service decides."),
    ] = None
    timeout: Annotated[float, _TIMEOUT] = 5.0
    on_failure: Annotated[Literal["block", "allow"], _ON_FAILURE] = "block"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.url is None) == (self.provider_id is None):
            # Of both, the provider's key would be sent to the URL.
            raise ValueError("set either `url` or `provider_id`")
        if self.url is not None and not self.url.startswith(("https://", "http://")):
            raise ValueError("`url` must begin with https:// or http://")


class JudgeCheck(Check, frozen=True, omit_defaults=True, kw_only=True, tag="judge"):
    """A model that decides whether a text violates a policy."""

    policy: Annotated[
        str, Meta(description="The policy, in words for the model.", min_length=1, max_length=MAX_POLICY)
    ]
    model_id: Annotated[
        str | None, Meta(description="The id of the model that judges; by default, the session's own.")
    ] = None
    timeout: Annotated[float, _TIMEOUT] = 20.0
    on_failure: Annotated[Literal["block", "allow"], _ON_FAILURE] = "block"


LocalCheck = RegexCheck | BlocklistCheck | ToolPatternCheck | PiiCheck | UrlAllowlistCheck
RemoteCheck = ModerationCheck | JudgeCheck
AnyCheck = (
    RegexCheck
    | BlocklistCheck
    | ToolPatternCheck
    | PiiCheck
    | UrlAllowlistCheck
    | ModerationCheck
    | JudgeCheck
)


class GuardrailsConfig(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The configuration of `guardrails`. Layers add checks; none removes those of another."""

    checks: Annotated[tuple[AnyCheck, ...], Meta(description="The checks.", max_length=MAX_CHECKS)] = ()


def type_of(check: AnyCheck) -> str:
    """The type of a check: `regex` ..."""
    return str(check.__struct_config__.tag)
