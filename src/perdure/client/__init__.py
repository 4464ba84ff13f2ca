"""The public Python client.

async with Client() as client:
    session = await client.create_session(title="First steps")
    print(await client.ask(session.id, "What is the capital of France?"))
"""

from perdure.client.client import Client, data_of, is_live, turn_failure
from perdure.client.errors import (
    ApiError,
    BadAnswer,
    Conflict,
    NotFound,
    RateLimited,
    TurnFailed,
    Unreachable,
)
from perdure.domain.errors import PerdureError
from perdure.domain.events import WireEvent
from perdure.domain.messages import Controls, ImagePart, Message, ReasoningConfig, TextPart
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
    "ImagePart",
    "Message",
    "NotFound",
    "PerdureError",
    "RateLimited",
    "ReasoningConfig",
    "TextPart",
    "ToolCallResult",
    "TurnFailed",
    "Unreachable",
    "WireEvent",
    "data_of",
    "is_live",
    "turn_failure",
]
