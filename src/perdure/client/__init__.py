"""The public Python client.

async with Client() as client:
    session = await client.create_session(title="First steps")
    print(await client.ask(session.id, "What is the capital of France?"))
"""

from perdure.client.client import Client
from perdure.client.conversation import turn_failure
from perdure.client.errors import (
    ApiError,
    BadAnswer,
    Conflict,
    NotFound,
    RateLimited,
    TurnFailed,
    TurnPaused,
    TurnWaits,
    Unreachable,
)
from perdure.client.events import data_of, is_live
from perdure.client.images import attachment
from perdure.client.own_tools import ToolCallContext, client_side_tool
from perdure.domain.errors import PerdureError, ToolError
from perdure.domain.events import WireEvent
from perdure.domain.messages import (
    Controls,
    FilePart,
    ImageFilePart,
    ImagePart,
    Message,
    ReasoningConfig,
    TextPart,
)
from perdure.domain.session_answers import OpenQuestions
from perdure.domain.tool_functions import tool
from perdure.domain.tools import ApprovalDecision, BuiltinTool, CapabilityRef, ClientSideTool, ToolCallResult

__all__ = [
    "ApiError",
    "ApprovalDecision",
    "BadAnswer",
    "BuiltinTool",
    "CapabilityRef",
    "Client",
    "ClientSideTool",
    "Conflict",
    "Controls",
    "FilePart",
    "ImageFilePart",
    "ImagePart",
    "Message",
    "NotFound",
    "OpenQuestions",
    "PerdureError",
    "RateLimited",
    "ReasoningConfig",
    "TextPart",
    "ToolCallContext",
    "ToolCallResult",
    "ToolError",
    "TurnFailed",
    "TurnPaused",
    "TurnWaits",
    "Unreachable",
    "WireEvent",
    "attachment",
    "client_side_tool",
    "data_of",
    "is_live",
    "tool",
    "turn_failure",
]
