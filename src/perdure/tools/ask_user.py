"""`ask_user`: lets the agent ask people questions in the middle of its work."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from perdure.app.context import Services
from perdure.capabilities.port import READ_ONLY, Capability, Later, Tool, ToolContext, schema
from perdure.domain.background import LATER
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.questions import (
    ASK_USER,
    ID_PATTERN,
    MAX_DESCRIPTION,
    MAX_LABEL,
    MAX_OPTIONS,
    MAX_QUESTION,
    MAX_QUESTIONS,
    MAX_WAIT,
    MIN_OPTIONS,
    MIN_WAIT,
    WAIT_SECONDS,
    questions_of,
    summary_of,
)


def ask_user(services: Services) -> Capability:
    """Create the capability, with its tool bound to the services."""
    return Capability(
        id="ask_user",
        name="Questions",
        description=(
            "Lets the agent ask people: choices, texts, and secrets that it never sees. The session waits "
            "for the answers."
        ),
        category="people",
        config_schema=schema(
            {
                "timeout_seconds": {
                    "type": "integer",
                    "minimum": MIN_WAIT,
                    "maximum": MAX_WAIT,
                    "default": WAIT_SECONDS,
                    "description": (
                        "How many seconds to wait for the answers. Afterwards, choices have the recommended "
                        "option, and the other questions are declined."
                    ),
                }
            }
        ),
        tools=lambda config: (_tool(_Ask(services, _seconds(config))),),
        prompt=lambda config: (
            "If you need a decision, a fact or a credential that only the user has, ask with ask_user. Do "
            "not ask what you can find out yourself."
        ),
    )


def _seconds(config: Any) -> int:
    given = config.get("timeout_seconds") if isinstance(config, dict) else None
    return given if isinstance(given, int) else WAIT_SECONDS


class _Ask(Struct, frozen=True):
    """The tool's function. It equals another one with the same settings, so that the agent stays cached."""

    services: Services
    seconds: int

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> Later:
        """Park the call until the questions are answered. Asking has no effect, so it may happen again."""
        if context.in_background:
            raise ToolError(LATER)
        questions = questions_of(arguments)
        deadline = self.services.now() + self.seconds * 1_000_000
        return Later("question", deadline, summary_of(questions), questions=questions)


def _tool(run: _Ask) -> Tool:
    return Tool(
        name=ASK_USER,
        display_name="Ask the user",
        description=(
            f"Ask the user 1 to {MAX_QUESTIONS} questions and wait for the answers. A question is a `choice` "
            f"({MIN_OPTIONS} to {MAX_OPTIONS} options, exactly one of them `recommended`), a `text`, or a "
            "`secret` (one per call), such as a password: it is stored as a secret of the session under "
            "`secret_name`, and you get the name, never the value. If nobody answers in time, choices have "
            "the recommended option, and the other questions are declined."
        ),
        parameters=_PARAMETERS,
        run=run,
        hints=READ_ONLY,
        yields=True,  # clients had tools of this name before there was one
    )


_PARAMETERS = schema(
    {
        "questions": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_QUESTIONS,
            "items": schema(
                {
                    "id": {
                        "type": "string",
                        "pattern": ID_PATTERN,
                        "description": "A short name of the question, by which you get the answer.",
                    },
                    "type": {"type": "string", "enum": ["choice", "text", "secret"]},
                    "question": {"type": "string", "minLength": 1, "maxLength": MAX_QUESTION},
                    "options": {
                        "type": "array",
                        "minItems": MIN_OPTIONS,
                        "maxItems": MAX_OPTIONS,
                        "description": "With choice: the options, one of them recommended.",
                        "items": schema(
                            {
                                "label": {"type": "string", "minLength": 1, "maxLength": MAX_LABEL},
                                "description": {"type": "string", "maxLength": MAX_DESCRIPTION},
                                "recommended": {"type": "boolean"},
                            },
                            "label",
                        ),
                    },
                    "secret_name": {
                        "type": "string",
                        "pattern": ID_PATTERN,
                        "description": "With secret: the name to store it under. Default: the id.",
                    },
                },
                "id",
                "type",
                "question",
            ),
        }
    },
    "questions",
)
