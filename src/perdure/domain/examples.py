"""Agents and harnesses to begin with."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.agents import CreateAgent
from perdure.domain.harnesses import HarnessExample
from perdure.domain.tools import CapabilityRef


class Example(Struct, frozen=True):
    """A harness, with the prompt that its list entry does not show."""

    shown: HarnessExample
    system_prompt: str


HARNESS_EXAMPLES: tuple[Example, ...] = (
    Example(
        HarnessExample(
            "notebook",
            "Notebook",
            "Keeps what it learns in Markdown files of the session, and looks there first.",
            (CapabilityRef("session_file_system"), CapabilityRef("current_time")),
            ("files", "memory"),
            False,
            "base",
        ),
        "Keep notes in /notes as Markdown, one file a subject. Before you answer, look whether your notes "
        "say something about it. When you learn something that will matter later, write it down, with the "
        "date.",
    ),
    Example(
        HarnessExample(
            "careful",
            "Careful",
            "Asks before it does anything that changes something.",
            (CapabilityRef("tool_approval", {"mode": "protective"}),),
            ("approval",),
            False,
            "generic",
        ),
        "Say what you are about to do and why before you use a tool that changes something.",
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
        "Plan first, then work in small steps, and check each step's outcome before the next.",
    ),
    Example(
        HarnessExample(
            "echo-lab",
            "Echo lab",
            "Next to nothing, for trying out a client.",
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
        "Turn rough notes into minutes: who was there, what was decided, who does what by when, and what "
        "stayed open. Leave out what was not said. Ask when a decision or a date is unclear.",
        display_name="Meeting notes",
        description="Rough notes in, minutes out.",
        capabilities=(CapabilityRef("session_file_system"), CapabilityRef("current_time")),
        tags=("writing",),
    ),
    CreateAgent(
        "release-writer",
        "Write release notes for the people who use the software. Group the changes by what they mean for a "
        "user, say what has to be done after an upgrade, and leave out what nobody outside will notice.",
        display_name="Release writer",
        description="A list of changes in, release notes out.",
        capabilities=(CapabilityRef("session_file_system"), CapabilityRef("stateless_todo_list")),
        tags=("writing", "software"),
    ),
)
