"""Trials of guardrails: a dry run on a text, and the examples that the server brings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.guardrail_checks import GuardrailAction, GuardrailStage
from perdure.domain.messages import JsonObject

MAX_TRIED = 200_000
"""Characters of the text of a dry run."""

_INDEX = Meta(description="The check's place in the configuration, from 0.", examples=[0], ge=0)
_ID = Meta(description="The check's id, or what its type and place make.", examples=["card_numbers"])
_TYPE = Meta(description="The check's type.", examples=["pii"])


class DryRunGuardrails(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/capabilities/guardrails/dry-run`."""

    config: Annotated[JsonObject, Meta(description="The configuration of the capability `guardrails`.")]
    stage: Annotated[GuardrailStage, Meta(description="The stage whose checks are tried.")]
    text: Annotated[
        str,
        Meta(
            description=(
                "What is checked: an answer, the arguments of a call (JSON), or a tool's result. Of JSON, "
                "each text is also searched as it is, without escapes."
            ),
            max_length=MAX_TRIED,
        ),
    ]
    tool_name: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(
            description="The tool that is called or has the result; checks of tools find nothing without it."
        ),
    ] = None


class GuardrailsDryRunHit(Struct, frozen=True, omit_defaults=True):
    """What a check found."""

    check_index: Annotated[int, _INDEX]
    check_id: Annotated[str, _ID]
    stage: Annotated[GuardrailStage, Meta(description="The stage.", examples=["output"])]
    rule_type: Annotated[str, _TYPE]
    action: Annotated[GuardrailAction, Meta(description="What the check does.", examples=["block"])]
    reason_code: Annotated[str, Meta(description="The reason.", examples=["pii_credit_card"])]
    matched: Annotated[
        str | None,
        Meta(
            description="What matched, at most 200 characters of it; absent if a tool's name did.",
            examples=["4111 1111 1111 1111"],
        ),
    ] = None
    replacement: Annotated[
        str | None, Meta(description="The text that takes its place, or that of the whole text.")
    ] = None


class GuardrailNotRun(Struct, frozen=True):
    """A check of the stage that a dry run does not make, because it costs money or leaves the server."""

    check_index: Annotated[int, _INDEX]
    check_id: Annotated[str, _ID]
    rule_type: Annotated[str, Meta(description="The check's type.", examples=["judge"])]


class GuardrailsDryRun(Struct, frozen=True, omit_defaults=True):
    """The result of a dry run."""

    hits: Annotated[
        tuple[GuardrailsDryRunHit, ...],
        Meta(description="What the checks found, in their order; of each check at most 20 hits."),
    ]
    blocked: Annotated[bool, Meta(description="Whether a check blocks the text.", examples=[True])]
    not_run: Annotated[
        tuple[GuardrailNotRun, ...],
        Meta(description="The checks by moderation services and judges, which a dry run does not call."),
    ] = ()


class GuardrailExample(Struct, frozen=True):
    """A configuration to start from."""

    name: Annotated[str, Meta(description="The example's name.", examples=["card_numbers"])]
    display_name: Annotated[str, Meta(description="Its name, for people.", examples=["Card numbers"])]
    description: Annotated[
        str, Meta(description="What it does.", examples=["Blocks answers that have card numbers."])
    ]
    tags: Annotated[tuple[str, ...], Meta(description="What it is about.", examples=[["privacy"]])]
    check_types: Annotated[tuple[str, ...], Meta(description="The types of its checks.", examples=[["pii"]])]
    stages: Annotated[
        tuple[GuardrailStage, ...], Meta(description="The stages of its checks.", examples=[["output"]])
    ]
    data_egress: Annotated[
        Literal["none", "model", "service"],
        Meta(
            description=(
                "Who gets the checked texts: nobody outside the server, the provider of a model, or a "
                "moderation service."
            ),
            examples=["none"],
        ),
    ]
    config: Annotated[
        JsonObject,
        Meta(
            description="The configuration of the capability `guardrails`.",
            examples=[{"checks": [{"type": "pii", "stage": "output", "kinds": ["credit_card"]}]}],
        ),
    ]


class GuardrailExamples(Struct, frozen=True):
    """The examples that the server brings."""

    examples: Annotated[tuple[GuardrailExample, ...], Meta(description="The examples.")]
