"""Events without secrets."""

from __future__ import annotations

import msgspec

from perdure.domain.events import NewEvent, decode_data
from perdure.domain.storage import Redactor


def redact_event(event: NewEvent, redactor: Redactor) -> NewEvent:
    """The event with every secret replaced by its name, in its data, metadata and tags."""
    data = msgspec.json.encode(event.data).decode()
    clean = redactor.text(data)
    metadata, tags = event.metadata, event.tags
    if metadata is not None:
        metadata = msgspec.json.decode(redactor.text(msgspec.json.encode(metadata).decode()))
    if tags is not None:
        tags = tuple(redactor.text(tag) for tag in tags)
    if clean == data and metadata == event.metadata and tags == event.tags:
        return event
    return msgspec.structs.replace(event, data=decode_data(event.type, clean), metadata=metadata, tags=tags)
