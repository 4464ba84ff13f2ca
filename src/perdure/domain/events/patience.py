"""The data of events about models that do not answer: what a turn does instead of failing."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from perdure.domain.event_data import EventData
from perdure.domain.events.fields import TURN_ID
from perdure.domain.events.messages import ModelMetadata
from perdure.domain.ids import BudgetId, MessageId, TurnId
from perdure.domain.parked import LimitKind, LimitScope
from perdure.domain.times import Timestamp

CIRCUIT_OPEN = "circuit_open"
"""The `error_code` of a fallback from a model that was not called, because its circuit breaker is open."""

_ERROR = Meta(description="Why the model did not answer, for people.")
_ERROR_CODE = Meta(
    description=(
        "The error code of the model call. `circuit_open`: it was not made, because calls of the model have "
        "failed just now."
    )
)


class OutputMessageWithdrawnData(EventData, frozen=True):
    """A message will not be completed: its model call failed, and another one takes its place.

    Text of it that followers have seen is no part of the conversation.
    """

    kind = "output.message.withdrawn"
    turn_id: Annotated[TurnId, TURN_ID]
    message_id: Annotated[MessageId, Meta(description="The message that was being written.")]
    reason: Annotated[
        Literal["fallback", "parked"],
        Meta(description="`fallback`: another model is called; `parked`: the call is made again later."),
    ]


class SkippedModel(Struct, frozen=True):
    """A fallback model that cannot be called, because its provider's settings are not valid."""

    model: Annotated[ModelMetadata, Meta(description="The model.")]
    error_code: Annotated[str, Meta(description="The error code, such as `provider_misconfigured`.")]
    error: Annotated[str, Meta(description="What is wrong with the settings, for people.")]


class ReasonFallbackData(EventData, frozen=True, omit_defaults=True):
    """Another model is called, because the one before does not answer. The turn goes on with it."""

    kind = "reason.fallback"
    turn_id: Annotated[TurnId, TURN_ID]
    from_: Annotated[ModelMetadata, Meta(description="The model that does not answer.")] = field(name="from")
    to: Annotated[ModelMetadata, Meta(description="The model that is called instead.")]
    error_code: Annotated[str, _ERROR_CODE]
    error: Annotated[str, _ERROR]
    until: Annotated[
        Timestamp | None,
        Meta(description="When the first model can be called again, if its provider said so."),
    ] = None
    skipped: Annotated[
        tuple[SkippedModel, ...], Meta(description="The fallback models that cannot be called.")
    ] = ()


class TurnParkedData(EventData, frozen=True, omit_defaults=True):
    """The turn waits, and occupies no worker: for its model, or for a limit of its organization or user.

    It goes on by itself. With `rate_limit`, a message makes the turn try at once.
    """

    kind = "turn.parked"
    turn_id: Annotated[TurnId, TURN_ID]
    parked_kind: Annotated[
        LimitKind,
        Meta(
            description=(
                "`rate_limit`: the model's provider named the time; `active_turns`: as many turns are active "
                "as may be; `tokens_per_minute`: the last minute's model calls have used as many tokens as "
                "they may; `budget`: a budget is used up, and the session is `paused`; `reservation`: calls "
                "that are under way hold the rest of a budget."
            )
        ),
    ] = field(name="kind")
    until: Annotated[
        Timestamp,
        Meta(
            description=(
                "When the model is called again. With `active_turns` and `budget`, at the latest: the turn "
                "goes on when others have ended, or when there is money."
            )
        ),
    ]
    error_code: Annotated[str, _ERROR_CODE]
    error: Annotated[str, _ERROR]
    scope: Annotated[
        LimitScope | None, Meta(description="Whose limit it is, with `active_turns` and `tokens_per_minute`.")
    ] = None
    budget_id: Annotated[BudgetId | None, Meta(description="With `budget`: the budget.")] = None


class TurnResumedData(EventData, frozen=True):
    """A parked turn goes on."""

    kind = "turn.resumed"
    turn_id: Annotated[TurnId, TURN_ID]
