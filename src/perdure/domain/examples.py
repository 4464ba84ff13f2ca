"""Examples of agents and harnesses, for users to start from."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.agents import CreateAgent
from perdure.domain.harnesses import HarnessExample
from perdure.domain.tools import CapabilityRef


class Example(Struct, frozen=True):
    """A harness example: its list entry, and the prompt, which the list does not show."""

    entry: HarnessExample
    system_prompt: str


HARNESS_EXAMPLES: tuple[Example, ...] = (
    Example(
        HarnessExample(
            "notebook",
            "Notebook",
            "Keeps notes in Markdown files of the session and reads them before it answers.",
            (CapabilityRef("session_file_system"), CapabilityRef("current_time")),
            ("files", "memory"),
            False,
            "base",
        ),
        "Keep notes in /notes as Markdown, one file per subject. Before you answer, check whether your notes "
        "cover the question. When you learn something that will matter later, write it down, with the date.",
    ),
    Example(
        HarnessExample(
            "careful",
            "Careful",
            "Asks for approval before it changes anything.",
            (CapabilityRef("tool_approval", {"mode": "protective"}),),
            ("approval",),
            False,
            "generic",
        ),
        "Before you use a tool that changes something, say what you are about to do and why.",
    ),
    Example(
        HarnessExample(
            "web-researcher",
            "Web researcher",
            "Reads the web, and notes where each fact comes from.",
            (
                CapabilityRef("web_fetch"),
                CapabilityRef("session_file_system"),
                CapabilityRef("stateless_todo_list"),
            ),
            ("research",),
            False,
            "base",
        ),
        "Answer from sources that you have read in this session. Name the source of each fact. Say so when "
        "sources disagree, and when you found none.",
    ),
    Example(
        HarnessExample(
            "shell-worker",
            "Shell worker",
            "Works on the session's files with a sandboxed shell.",
            (CapabilityRef("bashkit_shell"), CapabilityRef("stateless_todo_list")),
            ("files", "shell"),
            False,
            "generic",
        ),
        "Plan first, then work in small steps, and check the result of each step before the next.",
    ),
    Example(
        HarnessExample(
            "echo-lab",
            "Echo lab",
            "A minimal harness for trying out a client.",
            (CapabilityRef("session"),),
            ("testing",),
            True,
            "base",
        ),
        "Repeat what the user says, word for word.",
    ),
)

AGENT_EXAMPLES: tuple[CreateAgent, ...] = (
    CreateAgent(
        "meeting-notes",
        "Turn rough notes into minutes: who attended, what was decided, who does what by when, and what is "
        "still open. Do not add anything that the notes do not say. Ask if a decision or a date is unclear.",
        display_name="Meeting notes",
        description="Rough notes in, minutes out.",
        capabilities=(CapabilityRef("session_file_system"), CapabilityRef("current_time")),
        tags=("writing",),
    ),
    CreateAgent(
        "release-writer",
        "Write release notes for the people who use the software. Group the changes by their effect on "
        "users, say what users must do after an upgrade, and leave out what they will not notice.",
        display_name="Release writer",
        description="A list of changes in, release notes out.",
        capabilities=(CapabilityRef("session_file_system"), CapabilityRef("stateless_todo_list")),
        tags=("writing", "software"),
    ),
)
