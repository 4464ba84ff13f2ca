"""Puts the files of messages into a prompt, as its model can take them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.events import HistoryAdaptation
from perdure.domain.media import is_unusable
from perdure.domain.messages import ContentPart, FilePart, ImageFilePart, Message, TextPart
from perdure.engine.file_contents import Contents, Reader
from perdure.engine.generation import served_model
from perdure.engine.run import Run
from perdure.llm.adaptations import NO_IMAGES
from perdure.llm.registry import carried_to

FILE_TOOLS = frozenset({"read_file", "bash"})
"""Tools to which the path of a file is of use."""


async def with_files(
    run: Run,
    agent: ResolvedAgent,
    choice: ModelChoice,
    adaptation: HistoryAdaptation,
    messages: Sequence[Message],
) -> list[Message]:
    """Return the messages with their files as this model gets them.

    Args:
        adaptation: what the model's server has refused so far.
    """
    engine = run.engine
    carried = carried_to(choice.provider.provider_type, engine.catalog.at_hand(served_model(choice)))
    refused = None if NO_IMAGES in adaptation.changes else adaptation.images_left_out
    has_tools = any(tool.name in FILE_TOOLS for tool in agent.specs)
    contents = Contents(engine.files, engine.database, engine.images, run.row.org_id, run.redactor)
    reader = Reader(carried, refused, has_tools=has_tools)
    return await contents.read_by(reader, [_without_files(message) for message in messages])


def _without_files(message: Message) -> Message:
    """Replace files that cannot be sent by a note, so that they do not fail the turn."""
    if not any(map(is_unusable, message.content)):
        return message
    parts = tuple(_note_of(part) if is_unusable(part) else part for part in message.content)
    return replace(message, content=parts)


def _note_of(part: ContentPart) -> TextPart:
    if isinstance(part, ImageFilePart):
        return TextPart(f"[image {part.image_id} is not available]")
    if isinstance(part, FilePart):
        return TextPart("[a file is not available]")
    return TextPart("[image left out: it has no data]")
