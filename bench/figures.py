"""The figures: their names, units and targets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from msgspec import Struct

Figures = dict[str, float]
Once = Callable[[], Awaitable[Figures]]
"""Measures once. A measure runs several times, and the median counts."""


async def nothing() -> Figures:
    """Measure nothing: what the source, the database or the system does not have."""
    return {}


AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of turns at once of the measure `sweep`."""
CROWDS = (250, 500, 1_000, 2_000, 3_500, 5_000)
"""Numbers of streams at once of the measure `crowds`."""
DECILES = tuple(range(10, 101, 10))


class Scale(Struct, frozen=True):
    """How much each measure does. The defaults are the full suite; `QUICK` gives a first impression."""

    rounds: int = 3
    starts: int = 5
    rest: float = 4.0
    turns: int = 300
    tool_turns: int = 60
    turns_at_once: int = 2_500
    requests: int = 8_000
    streams: int = 60
    long_streams: int = 30
    followers: int = 500
    crowd: int = 500
    crowd_seconds: int = 12
    old_events: int = 10_000
    old_messages: int = 1_000
    history_turns: int = 120
    few_sessions: int = 1_000
    many_sessions: int = 100_000
    pages: int = 60
    parked_sessions: int = 10_000
    parked_turns: int = 200
    trees: int = 8
    parents: int = 1_000
    fallbacks: int = 200
    memory_requests: int = 50_000
    memory_turns: int = 4_000
    soak_minutes: float = 5.0
    surge: int = 5_000
    surge_seconds: int = 20
    watched: int = 1_000
    taken_over: int = 1_000
    swept_turns: int = 1_500
    crowds: tuple[int, ...] = CROWDS


QUICK = Scale(
    rounds=1,
    starts=2,
    rest=2.0,
    turns=60,
    tool_turns=15,
    turns_at_once=500,
    requests=1_500,
    streams=15,
    long_streams=8,
    followers=150,
    crowd=150,
    crowd_seconds=3,
    old_events=1_500,
    old_messages=200,
    history_turns=30,
    many_sessions=10_000,
    pages=20,
    parked_turns=40,
    trees=3,
    fallbacks=40,
    memory_requests=6_000,
    memory_turns=500,
    soak_minutes=0.5,
    surge=300,
    surge_seconds=6,
    watched=50,
    taken_over=60,
    swept_turns=200,
    crowds=CROWDS[:2],
)


class Figure(Struct, frozen=True):
    """One row of the table.

    Attributes:
        key: the figure's key in JSON.
        measure: the measure that produces it.
        text: its label in the table.
        unit: its unit.
        bound: the target, or None for a figure without one.
        better: whether the value should be `under` or `over` the bound.
        everywhere: whether the target applies to every database, not only to the embedded default.
        plotted: whether it is one point of a plot, and not in the table of the docs.
    """

    key: str
    measure: str
    text: str
    unit: str
    bound: float | None = None
    better: Literal["under", "over"] = "under"
    everywhere: bool = False
    plotted: bool = False

    def is_met(self, value: float) -> bool | None:
        """Whether the value meets the target; None without a target."""
        if self.bound is None:
            return None
        return value < self.bound if self.better == "under" else value >= self.bound

    @property
    def target(self) -> str:
        """The target, formatted."""
        sign = "<" if self.better == "under" else ">="
        return "" if self.bound is None else f"{sign} {formatted(self.bound)}"


def formatted(value: float) -> str:
    """Format a number with its significant digits."""
    if value != value:  # not a number: nothing was measured  # noqa: PLR0124
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def tail(values: Sequence[float], share: float = 0.99) -> float:
    """Return the quantile: the value that this share of the values does not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


STALLS = {
    "list": "list 10,000 files",
    "grep": "search them",
    "bash_ls": "`ls` in `bash` there",
    "bash_cat": "`cat` of one of them",
    "bash_grep": "`grep -r` over them",
    "bash_write": "append to 500 of them",
    "copy": "copy a folder with 500 of them",
    "move": "move it",
    "remove": "remove it",
    "fork": "fork the session with 10,000 files",
    "delete": "delete it",
    "upload": "upload of 100 MB",
    "uploads": "uploads of 10 MB, ten times",
    "download": "download of 100 MB",
    "read": "`read_file` of 10 MB",
    "large_grep": "search 100 MB",
    "large_bash": "`bash` with 100 MB of files",
    "large_bash_write": "the same, writing 90 MB",
    "large_fork": "fork a session with 200 MB",
    "large_delete": "delete it",
}
"""What one session does in the measure `stalls`."""


def _plotted(key: str, measure: str, text: str, unit: str) -> Figure:
    return Figure(key, measure, text, unit, plotted=True)


PLOTTED = (
    *(
        _plotted(f"{key}_{count}", "sweep", f"{count} turns at once: {text}", unit)
        for count in AT_ONCE
        for key, text, unit in (
            ("sweep_per_s", "turns", "/s"),
            ("sweep_cpu_ms", "server CPU per turn", "ms"),
            ("sweep_database_ms", "PostgreSQL's CPU per turn", "ms"),
        )
    ),
    *(
        _plotted(f"{key}_{count}", "crowds", f"{count:,} streams at once: {text}", unit)
        for count in CROWDS
        for key, text, unit in (
            ("crowds_first_ms", "first token, median", "ms"),
            ("crowds_p99_ms", "first token, 99th percentile", "ms"),
            ("crowds_mb", "peak memory", "MB"),
            ("crowds_cpu_pct", "CPU", "%"),
        )
    ),
    *(
        _plotted(f"takeover_{share}_s", "takeover", f"{share}% of the turns taken over after", "s")
        for share in DECILES
    ),
)
"""The points of the plots."""
FIGURES = (
    Figure("cold_start_s", "start", "start to ready, with existing data", "s", 1.0),
    Figure("first_start_s", "start", "start to ready, with an empty folder or database", "s"),
    Figure("idle_mb", "start", "idle: resident memory", "MB", 73),
    Figure("idle_cpu_pct", "start", "idle: CPU", "%"),
    Figure("turn_ms", "turns", "text turn, one at a time: POST to turn.completed", "ms", 5),
    Figure("turn_p99_ms", "turns", "the same, 99th percentile", "ms"),
    Figure("turn_cpu_ms", "turns", "the same, server CPU", "ms", 4),
    Figure("turn_database_cpu_ms", "turns", "the same, PostgreSQL's CPU", "ms"),
    Figure("round_ms", "turns", "a tool round", "ms", 3),
    Figure("round_cpu_ms", "turns", "the same, server CPU", "ms"),
    Figure("turns_per_s_16", "turns", "text turns, 16 concurrent", "/s"),
    Figure("turns_per_s_64", "turns", "text turns, 64 concurrent", "/s", 300, "over"),
    Figure("turns_cpu_ms_64", "turns", "the same, server CPU per turn", "ms"),
    Figure("get_per_s", "requests", "GET a session, 16 concurrent", "/s", 4000, "over"),
    Figure("get_cpu_ms", "requests", "the same, server CPU", "ms"),
    Figure("patch_per_s", "requests", "PATCH a session, 16 concurrent, durable", "/s", 3000, "over"),
    Figure("patch_cpu_ms", "requests", "the same, server CPU", "ms"),
    Figure("create_per_s", "requests", "create a session, 16 concurrent, durable", "/s"),
    Figure("create_cpu_ms", "requests", "the same, server CPU", "ms"),
    Figure("list_per_s", "requests", "list 50 of 1,000 sessions, 16 concurrent", "/s"),
    Figure("list_cpu_ms", "requests", "the same, server CPU", "ms"),
    Figure("first_token_added_ms", "streams", "first token: added to the model's own time", "ms", 3),
    Figure("to_model_ms", "streams", "the same: from the POST to the model", "ms"),
    Figure("from_model_ms", "streams", "the same: from the model to the follower", "ms"),
    Figure("one_token_added_ms", "streams", "an answer of one token: added to the total time", "ms"),
    Figure("long_added_ms", "streams", "500 tokens without delay: total time added", "ms", 25),
    Figure("long_cpu_ms", "streams", "the same, server CPU", "ms"),
    Figure("follower_kb", "followers", "memory per idle follower", "KB", 40),
    Figure("followers_cpu_pct", "followers", "CPU of all idle followers", "%"),
    Figure(
        "crowd_done_pct", "crowd", "500 concurrent turns that stream for 12 s: completed", "%", 100, "over"
    ),
    Figure("crowd_first_token_ms", "crowd", "the same, first token: median", "ms", 1000),
    Figure("crowd_last_first_token_ms", "crowd", "the same, first token: slowest", "ms", 1000),
    Figure("crowd_late_s", "crowd", "the same, last turn completed after the model", "s"),
    Figure("crowd_stream_kb", "crowd", "the same, peak memory per stream", "KB"),
    Figure("crowd_cpu_pct", "crowd", "the same, CPU", "%"),
    Figure(
        "old_cpu_ratio",
        "history",
        "turn after 10,000 events, relative to an empty session: CPU",
        "x",
        1.1,
        everywhere=True,
    ),
    Figure("old_wall_ratio", "history", "the same, elapsed time", "x", 1.1, everywhere=True),
    Figure("old_cold_ms", "history", "the same, first turn after a restart", "ms"),
    Figure("turn_bytes", "history", "bytes stored per text turn", "bytes"),
    Figure("messages_added_ms", "history", "1,000 old messages, all sent: added time", "ms", 5),
    Figure("messages_added_cpu_ms", "history", "the same, server CPU", "ms"),
    Figure("files_written_per_s", "files", "write a file of 4 KB, 16 concurrent, durable", "/s"),
    Figure("files_written_cpu_ms", "files", "the same, server CPU", "ms"),
    Figure("files_grep_found_ms", "files", "search 1,000 files of 4 KB, 20 match", "ms"),
    Figure("files_grep_missed_ms", "files", "the same, no match", "ms"),
    Figure("files_large_in_ms", "files", "upload of 10 MB", "ms"),
    Figure("files_large_out_ms", "files", "download of 10 MB", "ms"),
    Figure("files_raw_in_ms", "files", "upload of 100 MB as it is", "ms"),
    Figure("files_raw_in_mb", "files", "the same, peak of memory above idle", "MB"),
    Figure("files_raw_out_ms", "files", "download of 100 MB", "ms"),
    Figure("files_raw_out_mb", "files", "the same, peak of memory above idle", "MB"),
    Figure("files_fork_ms", "files", "fork a session with all these files", "ms"),
    *(
        Figure(f"{prefix}{key}_ms", "stalls", text.format(what), "ms", bound)
        for key, what in STALLS.items()
        for prefix, text, bound in (
            ("stall_", "{}: longest turn of another session meanwhile", 100.0),
            ("", "the same, time", None),
        )
    ),
    Figure("mcp_idle_ms", "mcp", "twenty MCP servers of fifty tools, unused: added to a turn", "ms", 0.3),
    Figure("mcp_idle_cpu_ms", "mcp", "the same, server CPU", "ms"),
    Figure("mcp_idle_mb", "mcp", "the same, memory", "MB", 20),
    Figure("mcp_round_ms", "mcp", "a round of an MCP tool: added to one of a tool in Python", "ms", 3),
    Figure("mcp_round_cpu_ms", "mcp", "the same, server CPU", "ms"),
    Figure("tool_empty_ms", "tools", "a tool round with `get_current_time`, on the built-in harness", "ms"),
    Figure("tool_bash_ms", "tools", "added by `bash`: `echo hi`", "ms", 5),
    Figure("tool_read_file_ms", "tools", "added by `read_file`, 4 KB", "ms"),
    Figure("tool_write_file_ms", "tools", "added by `write_file`, 4 KB", "ms"),
    Figure("tool_grep_files_ms", "tools", "added by `grep_files`, one file", "ms"),
    Figure("tool_kv_set_ms", "tools", "added by `kv_store`, set", "ms"),
    Figure("tool_kv_get_ms", "tools", "added by `kv_store`, get", "ms"),
    Figure("tool_sql_execute_ms", "tools", "added by `sql_execute`, one row", "ms"),
    Figure("tool_sql_query_ms", "tools", "added by `sql_query`, ten rows", "ms"),
    Figure("tool_title_ms", "tools", "added by `write_session_title`", "ms"),
    Figure(
        "callback_ms", "callbacks", "park a call and resume it by its callback: added to a round", "ms", 2.5
    ),
    Figure("callback_cpu_ms", "callbacks", "the same, server CPU", "ms"),
    Figure("fallback_ms", "fallbacks", "last failure of a model to first token of its fallback", "ms", 25),
    Figure("parked_mb", "callbacks", "10,000 parked sessions: memory added", "MB", 2, everywhere=True),
    Figure("parked_cpu_pct", "callbacks", "the same, CPU added", "%", 1, everywhere=True),
    Figure("spawn_ms", "trees", "a turn that begins a sub-agent and receives its answer", "ms"),
    Figure("spawn_ratio", "trees", "the same, relative to two text turns", "x", 1.5, everywhere=True),
    Figure("spawn_cpu_ratio", "trees", "the same, server CPU", "x"),
    Figure("tree_ms", "trees", "50 sub-agents at once, of two parents: all have ended", "ms"),
    Figure("tree_ratio", "trees", "the same, relative to 50 separate sessions", "x", 1.3, everywhere=True),
    Figure(
        "parents_mb",
        "trees",
        "1,000 sessions that wait for sub-agents: memory added",
        "MB",
        2,
        everywhere=True,
    ),
    Figure("parents_cpu_pct", "trees", "the same, CPU added", "%", 1, everywhere=True),
    Figure("output_ms", "outputs", "a typed result of 23 fields: added to a turn", "ms", 0.3),
    Figure("output_cpu_ms", "outputs", "the same, server CPU", "ms"),
    Figure("budgets_ms", "budgets", "a turn under four budgets: added", "ms", 0.3, everywhere=True),
    Figure("budgets_cpu_ms", "budgets", "the same, server CPU", "ms"),
    Figure(
        "hot_budget_ratio",
        "budgets",
        "turns per second at 64 at once under one organization's budget, relative to none",
        "x",
        0.9,
        "over",
        everywhere=True,
    ),
    Figure("guardrail_ms", "guardrails", "one check: added to 500 streamed tokens", "ms", 1),
    Figure("guardrails_ms", "guardrails", "a pattern, a list and card numbers: the same", "ms", 1),
    Figure("list_page_ms", "scale", "list 50 of 1,000 sessions", "ms"),
    Figure("list_ratio", "scale", "the same in 100,000", "x", 2, everywhere=True),
    Figure("search_page_ms", "scale", "search in 1,000 sessions", "ms"),
    Figure("search_ratio", "scale", "the same in 100,000", "x", 2, everywhere=True),
    Figure("rare_page_ms", "scale", "search for a title that one of 1,000 sessions has", "ms"),
    Figure("rare_ratio", "scale", "the same in 100,000", "x", 2, everywhere=True),
    Figure("middle_page_ms", "scale", "search that one title in ninety matches, 10 of 1,000", "ms"),
    Figure(
        "middle_ratio",
        "scale",
        "the same in 100,000, which counts 201 matches instead of 14",
        "x",
        2,
        everywhere=True,
    ),
    Figure(
        "deep_ratio",
        "scale",
        "the last page of 100,000, relative to the last of 1,000",
        "x",
        2,
        everywhere=True,
    ),
    Figure("halfway_ratio", "scale", "the same, the middle page", "x"),
    Figure("requests_mb", "memory", "memory growth over 50,000 requests", "MB", 5, everywhere=True),
    Figure("turns_mb", "memory", "memory growth over 4,000 turns in 4,000 sessions", "MB"),
    Figure("soak_growth_mb", "soak", "sessions made, used and deleted: memory growth a minute", "MB", 1),
    Figure("soak_mb", "soak", "the same, memory at the end", "MB"),
    Figure("soak_sessions", "soak", "the same, sessions", ""),
    Figure(
        "surge_done_pct",
        "surge",
        "5,000 turns that stream at once, begun at 200/s: completed",
        "%",
        100,
        "over",
    ),
    Figure("surge_first_token_ms", "surge", "the same, first token: median", "ms", 1000),
    Figure("surge_p99_first_token_ms", "surge", "the same, first token: 99th percentile", "ms", 1000),
    Figure("surge_stream_kb", "surge", "the same, peak memory per stream", "KB"),
    Figure("surge_growth_mb", "surge", "the same, memory growth while they stream", "MB", 20),
    Figure("surge_cpu_pct", "surge", "the same, CPU", "%"),
    Figure("audience_kb", "audience", "10,000 followers of 1,000 sessions: memory per follower", "KB"),
    Figure("audience_all_s", "audience", "the same, a turn in each session: until all have its end", "s"),
    Figure("audience_behind_ms", "audience", "the same, last follower behind the last turn", "ms"),
    Figure("audience_frame_us", "audience", "the same, server CPU per follower and event", "us"),
    Figure("takeover_s", "takeover", "1,000 turns whose process is killed: taken over, median", "s"),
    Figure("takeover_p99_s", "takeover", "the same, 99th percentile", "s", 12, everywhere=True),
    Figure("observed_ratio", "observed", "turns with logs and metrics, relative to none: CPU", "x", 1.03),
    Figure("roles_whole_ms", "roles", "one process: text turn, one at a time", "ms"),
    Figure("roles_split_ms", "roles", "one of the API and one worker: the same", "ms"),
    Figure("roles_one_per_s", "roles", "one process with a fifth of a core: turns, 64 at once", "/s"),
    Figure(
        "roles_two_per_s", "roles", "two such processes, relative to one", "x", 1.8, "over", everywhere=True
    ),
    Figure("roles_split_per_s", "roles", "one of the API and one worker, relative to one", "x"),
    *PLOTTED,
)
"""Targets: the issues "Heart" and "Session API"."""
