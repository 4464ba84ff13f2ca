"""Mutations of what the server does with models that do not answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.domain import projection
from perdure.domain.events import TurnParkedData
from perdure.engine import advance

Patch = pytest.MonkeyPatch


def the_model_that_failed_is_called_again(patch: Patch) -> None:
    patch.setattr(advance, "was_given_up", lambda choice, state: False)


def the_model_that_the_log_names_is_forgotten(patch: Patch) -> None:
    patch.setattr(advance, "fallback_of", lambda state, requested: None)


def a_turn_that_waits_is_never_woken(patch: Patch) -> None:
    handlers = {**projection._HANDLERS, TurnParkedData.kind: lambda old, event, head: old}
    patch.setattr(projection, "_HANDLERS", handlers)


PATIENCE_MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    the_model_that_failed_is_called_again,
    the_model_that_the_log_names_is_forgotten,
    a_turn_that_waits_is_never_woken,
)
