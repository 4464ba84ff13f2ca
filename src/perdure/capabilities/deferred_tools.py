"""Deferred tools: those that the model finds with `tool_search` instead of being offered them all.

Their definitions would fill the prompt. A deferred tool that was found is loaded: the model is offered it
from its next call on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from perdure.capabilities.behaviour import ToolSearchRules
from perdure.capabilities.port import READ_ONLY, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.messages import JsonObject
from perdure.domain.texts import one_line
from perdure.domain.tool_ranking import MAX_QUERY, ToolRanking
from perdure.llm.driver import ToolSpec, fixed_tokens

IDENTIFIER, LABEL = "tool_search", "Tool search"
"""The id and the name of the capability that configures the search. The tool has the same name."""

FOUND, MOST_FOUND = 5, 20
"""How many tools one search loads, unless it asks for another number, and at most."""
MAX_SHOWN = 200
"""Characters of a tool's description in the answer of a search."""
MAX_SOURCES, MAX_SOURCE = 20, 60
"""Sources that are named to the model, and characters of a name."""
FEW_TOOLS = 50
"""The number of tools above which reading them all may take more than 10 ms, so that a thread does it."""


class DeferredTool(Struct, frozen=True):
    """A tool that the model is not offered at first, and the name of the capability or server that has it."""

    tool: Tool
    source: str

    def spec(self) -> ToolSpec:
        """The tool as the model sees it, once it is loaded."""
        return ToolSpec(self.tool.name, self.tool.description, self.tool.parameters)


def deferred_of(
    tools: Mapping[str, DeferredTool], found: Collection[str], taken: Collection[str], rules: ToolSearchRules
) -> DeferredTools | None:
    """Decide which of an agent's tools are deferred; None if none is.

    Args:
        tools: the tools that run on the server, by name. What clients run is never deferred.
        found: the names of those that were discovered.
        taken: all names of tools that the search must not have.
    """
    if rules.mode == "never":
        return None
    all_found = rules.mode == "always" or len(found) > rules.threshold
    chosen = {
        name: each
        for name, each in tools.items()
        if (each.tool.deferred or (all_found and name in found)) and name not in rules.always
    }
    return DeferredTools(chosen, taken) if chosen else None


class DeferredTools:
    """The deferred tools of an agent, and the tool that finds them.

    It does not depend on what a session has loaded, so that sessions share it, with the index of the search.
    """

    def __init__(self, tools: Mapping[str, DeferredTool], taken: Collection[str]) -> None:
        self._tools = tools
        self._specs = {name: each.spec() for name, each in tools.items()}
        self._tokens = {name: fixed_tokens("", (spec,)) for name, spec in self._specs.items()}
        self._ranking: ToolRanking | None = None
        names = (IDENTIFIER, *(f"{IDENTIFIER}_{number}" for number in range(2, len(taken) + 3)))
        self.search = self._search_tool(next(name for name in names if name not in taken))
        """The tool that finds them."""
        self.weight = sum(self._tokens.values())
        """The estimated tokens of all of them together."""
        self.names = frozenset(tools)
        """The names of the tools, loaded or not."""

    def loaded(self, names: Iterable[str]) -> tuple[tuple[ToolSpec, ...], int]:
        """Those of the session's loaded tools that exist, in the same order, and their estimated tokens."""
        known = [name for name in names if name in self._specs]
        return tuple(self._specs[name] for name in known), sum(self._tokens[name] for name in known)

    def note(self) -> str:
        """What the system prompt says of them. Loading does not change it: vendors cache the prompt."""
        total = len(self._tools)
        return (
            f"You have {total} more tool{'' if total == 1 else 's'} than you are shown, from: "
            f"{self._sources()}. If you need something that no tool shown to you does, search them with "
            f"`{self.search.name}`. You can call the tools that it finds from your next answer on."
        )

    def _sources(self) -> str:
        counted = Counter(one_line(each.source, MAX_SOURCE) for each in self._tools.values())
        named = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{source} ({number})" for source, number in named[:MAX_SOURCES]]
        if len(named) > MAX_SOURCES:
            rest = sum(number for _, number in named[MAX_SOURCES:])
            parts.append(f"{len(named) - MAX_SOURCES} others ({rest})")
        return ", ".join(parts)

    def _search_tool(self, name: str) -> Tool:
        return Tool(
            name=name,
            description=(
                "Search the tools that you are not shown, by what they do or by their names, and load those "
                "that match best. You can call them from your next answer on."
            ),
            parameters=schema(
                {
                    "query": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": MAX_QUERY,
                        "description": "A few words on what you want to do, or exact names of tools.",
                    },
                    "limit": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MOST_FOUND,
                        "default": FOUND,
                        "description": "How many tools to load at most.",
                    },
                },
                "query",
            ),
            run=self._run,
            hints=READ_ONLY,
            display_name=LABEL,
            spill=False,
        )

    async def _run(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
        """Search, and load what was found."""
        ranking = await self._index()
        matching = ranking.best(arguments["query"])
        names = matching[: int(arguments.get("limit", FOUND))]
        if not names:
            return ToolOutcome(
                f"No tool matches. Search with other words: there are tools from {self._sources()}."
            )
        shown = [
            {
                "name": name,
                "description": one_line(self._tools[name].tool.description, MAX_SHOWN),
                "from": one_line(self._tools[name].source, MAX_SOURCE),
            }
            for name in names
        ]
        more = len(matching) - len(names)
        note = "These tools are loaded: you can call them from your next answer on."
        if more:
            note += f" {more} more match less well: to find others, search with other words."
        return ToolOutcome({"tools": shown, "note": note}, loads=names)

    async def _index(self) -> ToolRanking:
        if self._ranking is None:
            texts = [(name, each.tool.description, each.source) for name, each in self._tools.items()]
            many = len(texts) > FEW_TOOLS
            self._ranking = await asyncio.to_thread(ToolRanking, texts) if many else ToolRanking(texts)
        return self._ranking
