"""Descriptions of the fields that several kinds of events share."""

from __future__ import annotations

from msgspec import Meta

TURN_ID = Meta(description="The turn that the event belongs to.")
INPUT_MESSAGE_ID = Meta(description="The message that started the turn.")
MESSAGE_ID = Meta(description="The message that is being written.")
MODEL = Meta(description="The vendor's name of the model.")
ITERATION = Meta(description="The number of the model call within the turn, starting at 1.")
DELTA = Meta(description="The new piece of text.")
ACCUMULATED = Meta(description="The text so far, including the new piece.")
ERROR = Meta(description="What went wrong, for people.")
ERROR_CODE = Meta(description="The stable error code, for programs. See the list of error codes.")
ERROR_FIELDS = Meta(description="More facts about the error.")
ERROR_DISCLOSURE = Meta(description="How much of the error a user may see.")
MODEL_CALL_COUNT = Meta(description="The number of model calls.")
TOOL_CALL_COUNT = Meta(description="The number of tool calls.")
TIME_TO_FIRST_TOKEN_MS = Meta(
    description="The time until the first piece of text or reasoning, in milliseconds."
)
TOOL_CALLS = Meta(description="The tool calls.")
TOOL_NAME = Meta(description="The name of the tool.")
TOOL_DISPLAY_NAME = Meta(description="The tool's name, for people.")
TURN_USAGE = Meta(description="The usage of all model calls of the turn.")
CALL_USAGE = Meta(description="The usage of the model call.")
