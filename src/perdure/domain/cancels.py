"""Cancels of turns."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class CancelledTurn(Struct, frozen=True):
    """The outcome of a cancel."""

    status: Annotated[
        Literal["cancelled", "no_op"],
        Meta(description="`no_op` when no turn was running.", examples=["cancelled"]),
    ]
    message: Annotated[
        str, Meta(description="The outcome, for people.", examples=["The turn was cancelled."])
    ]
