"""URLs that people have given: a call with such a URL carries nothing out that a person did not write."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.callbacks import LATE_RESULT
from perdure.domain.messages import Message, TextPart
from perdure.domain.schedules import SCHEDULED
from perdure.domain.tasks import PARENT_TASK

_AROUND = "<>()[]{}\"'`.,;:!?*"
"""What people write around a URL."""
_RELAYED = frozenset({LATE_RESULT, PARENT_TASK, SCHEDULED})
"""Keys in the metadata of messages that no person wrote."""


def is_given(url: str, messages: Iterable[Message]) -> bool:
    """Whether a person's message contains the URL, exactly: then it carries nothing that the person has not.

    A URL that only begins like one of a message can carry data in the rest of it.
    """
    wanted = url.strip()
    if not wanted:
        return False
    for message in messages:
        if message.role != "user" or not _RELAYED.isdisjoint(message.metadata or ()):
            continue
        for part in message.content:
            if isinstance(part, TextPart) and wanted in part.text and _has_word(part.text, wanted):
                return True
    return False


def _has_word(text: str, url: str) -> bool:
    return any(url in (word, word.strip(_AROUND)) for word in text.split())
