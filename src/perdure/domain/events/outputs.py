"""The data of events about the checks of typed results."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from perdure.domain.event_data import EventData
from perdure.domain.events.fields import TURN_ID
from perdure.domain.ids import MessageId, TurnId
from perdure.domain.messages import JsonValue

_MESSAGE_ID = Meta(description="The message with the answer.")


class OutputAcceptedData(EventData, frozen=True, omit_defaults=True):
    """The final answer matches the schema that was set for it."""

    kind = "output.accepted"
    turn_id: Annotated[TurnId, TURN_ID]
    message_id: Annotated[MessageId, _MESSAGE_ID]
    output: Annotated[
        JsonValue,
        Meta(
            description="The value of the answer. Absent if it is null.",
            examples=[{"city": "Rome", "degrees": 21}],
        ),
    ] = None


class OutputRejectedData(EventData, frozen=True):
    """The answer does not match the schema that was set for it. The model reads why, and may correct it.

    The turn fails with `output_invalid` after the third such answer.
    """

    kind = "output.rejected"
    turn_id: Annotated[TurnId, TURN_ID]
    message_id: Annotated[MessageId, _MESSAGE_ID]
    errors: Annotated[
        tuple[str, ...],
        Meta(
            description="What is wrong, each with the path of the value. The values themselves are left out.",
            examples=[['degrees: the value is not of type "integer"']],
        ),
    ]
    attempt: Annotated[
        int, Meta(description="The number of rejected answers of this turn, with this one.", examples=[1])
    ]
