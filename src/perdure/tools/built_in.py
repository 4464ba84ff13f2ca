"""The capabilities that come with the server."""

from __future__ import annotations

from perdure.capabilities.port import Capability
from perdure.tools.agent_instructions import AGENT_INSTRUCTIONS
from perdure.tools.bashkit_shell import BASHKIT_SHELL
from perdure.tools.context_compaction import CONTEXT_COMPACTION
from perdure.tools.current_time import CURRENT_TIME
from perdure.tools.loop_detection import LOOP_DETECTION
from perdure.tools.output_truncation import OUTPUT_TRUNCATION
from perdure.tools.parallel_tool_calls import PARALLEL_TOOL_CALLS
from perdure.tools.prompt_caching import PROMPT_CACHING
from perdure.tools.session import SESSION
from perdure.tools.session_file_system import SESSION_FILE_SYSTEM
from perdure.tools.session_schedule import SESSION_SCHEDULE
from perdure.tools.session_sql_database import SESSION_SQL_DATABASE
from perdure.tools.session_storage import SESSION_STORAGE
from perdure.tools.stateless_todo_list import STATELESS_TODO_LIST
from perdure.tools.tool_approval import TOOL_APPROVAL
from perdure.tools.tool_call_repair import TOOL_CALL_REPAIR
from perdure.tools.web_fetch import WEB_FETCH

BUILT_IN: tuple[Capability, ...] = (
    AGENT_INSTRUCTIONS,
    BASHKIT_SHELL,
    CURRENT_TIME,
    SESSION,
    SESSION_FILE_SYSTEM,
    SESSION_SCHEDULE,
    SESSION_SQL_DATABASE,
    SESSION_STORAGE,
    STATELESS_TODO_LIST,
    WEB_FETCH,
    CONTEXT_COMPACTION,
    LOOP_DETECTION,
    OUTPUT_TRUNCATION,
    PARALLEL_TOOL_CALLS,
    PROMPT_CACHING,
    TOOL_CALL_REPAIR,
    TOOL_APPROVAL,
)
