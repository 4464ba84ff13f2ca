"""The capabilities that come with the server."""

from __future__ import annotations

from typing import cast

from perdure.app.context import Services
from perdure.capabilities.port import Capability
from perdure.tools.agent_instructions import agent_instructions
from perdure.tools.ask_user import ask_user
from perdure.tools.background_tools import background_tools
from perdure.tools.bashkit_shell import bashkit_shell
from perdure.tools.code_interpreter import code_interpreter
from perdure.tools.context_compaction import context_compaction
from perdure.tools.current_time import CURRENT_TIME
from perdure.tools.guardrails import GUARDRAILS_CAPABILITY
from perdure.tools.handoff import handoff
from perdure.tools.loop_detection import LOOP_DETECTION
from perdure.tools.memory import MEMORY
from perdure.tools.output_truncation import OUTPUT_TRUNCATION
from perdure.tools.parallel_tool_calls import PARALLEL_TOOL_CALLS
from perdure.tools.policy_hook import POLICY_HOOK
from perdure.tools.prompt_caching import PROMPT_CACHING
from perdure.tools.session import session
from perdure.tools.session_file_system import session_file_system
from perdure.tools.session_schedule import session_schedule
from perdure.tools.session_sql_database import session_sql_database
from perdure.tools.session_storage import session_storage
from perdure.tools.skills import skills
from perdure.tools.stateless_todo_list import STATELESS_TODO_LIST
from perdure.tools.subagents import subagents
from perdure.tools.tool_approval import TOOL_APPROVAL
from perdure.tools.tool_call_repair import TOOL_CALL_REPAIR
from perdure.tools.tool_search import TOOL_SEARCH
from perdure.tools.web_fetch import web_fetch


def built_in(services: Services) -> tuple[Capability, ...]:
    """Create the built-in capabilities, with their tools bound to the services that they call."""
    return (
        agent_instructions(services),
        ask_user(services),
        background_tools(services),
        bashkit_shell(services),
        code_interpreter(services),
        CURRENT_TIME,
        handoff(services),
        session(services),
        session_file_system(services),
        session_schedule(services),
        session_sql_database(services),
        session_storage(services),
        skills(services),
        subagents(services),
        STATELESS_TODO_LIST,
        web_fetch(),
        context_compaction(services),
        GUARDRAILS_CAPABILITY,
        LOOP_DETECTION,
        MEMORY,
        OUTPUT_TRUNCATION,
        PARALLEL_TOOL_CALLS,
        PROMPT_CACHING,
        TOOL_CALL_REPAIR,
        TOOL_SEARCH,
        TOOL_APPROVAL,
        POLICY_HOOK,
    )


def catalogue() -> tuple[Capability, ...]:
    """The built-in capabilities without services, for documentation only: running their tools fails."""
    return built_in(cast("Services", None))
