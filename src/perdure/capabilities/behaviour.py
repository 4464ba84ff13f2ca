"""How the turn's loop behaves, which capabilities decide."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.domain.compaction import Compaction


class ToolSearchRules(Struct, frozen=True):
    """Which tools are deferred: the model finds them with `tool_search` instead of being offered them.

    Attributes:
        mode: `auto` defers the tools that say so, and all discovered ones above the threshold. `always`
            defers all discovered ones. `never` defers none.
        threshold: the most discovered tools that an agent is offered in the mode `auto`.
        always: the names of tools that are offered in any case.
    """

    mode: Literal["auto", "always", "never"] = "auto"
    threshold: int = 30
    always: tuple[str, ...] = ()


class BackgroundRules(Struct, frozen=True):
    """Which tools the model may have run in the background.

    Attributes:
        tools: the names of further tools, besides those that say that they may.
        time_limit: the seconds that a tool may take there, if its own timeout is shorter.
    """

    tools: tuple[str, ...] = ()
    time_limit: float = 0.0


class Behaviour(Struct, frozen=True):
    """How the turn's loop behaves. None means the loop's default.

    Attributes:
        loop_limit: repetitions of the same calls before the agent is warned; 0 for never.
        output_limit: characters of a tool's output that the model sees; None for all that are kept.
        output_head: the share of them from the output's beginning; the rest is from its end.
        compaction: when to summarize the history. None for never: the oldest part is then left out.
        tool_search: which tools the model has to search for.
        background: which tools may run in the background; None for none.
    """

    prompt_caching: bool | None = None
    parallel_tool_calls: bool | None = None
    loop_limit: int = 0
    repair_tool_calls: bool = False
    output_limit: int | None = None
    output_head: float = 0.5
    compaction: Compaction | None = None
    tool_search: ToolSearchRules = ToolSearchRules()
    background: BackgroundRules | None = None
