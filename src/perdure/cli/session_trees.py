"""`perdure sessions tree`: a session and all below it, drawn with lines."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from perdure.cli.task_lines import MARKS, STYLES, took_of, what_came_of
from perdure.cli.terminal import Part, Screen
from perdure.cli.texts import short
from perdure.domain.tasks import ENDED
from perdure.domain.visible import exact

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.messages import Usage
    from perdure.domain.session_trees import SessionNode, SessionTree

EVERY = 1.0
"""Seconds between two looks at a tree that is watched. No stream tells of the changes of all its sessions."""


async def show_tree(client: Client, session_id: str, *, watches: bool, as_json: bool) -> None:
    """Print a tree of sessions.

    Args:
        watches: look again until all have ended: on a terminal, the tree is redrawn; elsewhere, a line is
            printed for each change.
    """
    screen = Screen()
    async with client:
        tree = await client.get_session_tree(session_id)
        if watches and not has_ended(tree):
            tree = await _watched(client, session_id, tree, screen, as_json)
            if not screen.is_terminal:
                return
    if as_json:
        screen.json(tree)
    else:
        for line in drawn(tree, screen.width):
            screen.line(*line)


async def _watched(
    client: Client, session_id: str, tree: SessionTree, screen: Screen, as_json: bool
) -> SessionTree:
    """Show the changes of a tree until all of it has ended; return it then."""
    told: dict[str, SessionNode] = {}
    with screen.live() as redraw:
        while True:
            if redraw is not None and not as_json:
                redraw(list(drawn(tree, screen.width)))
            elif as_json:
                if [told.get(node.session_id) for node in tree.nodes] != list(tree.nodes):
                    screen.json(tree)
            else:
                for node in tree.nodes:
                    if _looks(node) != _looks(told.get(node.session_id)):
                        screen.line(*_change(node))
            told = {node.session_id: node for node in tree.nodes}
            if has_ended(tree):
                return tree
            await asyncio.sleep(EVERY)
            tree = await client.get_session_tree(session_id)


def has_ended(tree: SessionTree) -> bool:
    """Whether nothing in the tree goes on, or waits."""
    return all(
        node.status in ("idle", "started") and (node.state is None or node.state in ENDED)
        for node in tree.nodes
    )


def _looks(node: SessionNode | None) -> tuple[str | None, ...]:
    return () if node is None else (node.state, node.status, node.waits_for)


def _change(node: SessionNode) -> list[Part]:
    when = datetime.now(UTC).strftime("%H:%M:%S")
    return [(f"{when} ", "dim"), ("  " * node.depth, ""), *_described(node, None)]


def drawn(tree: SessionTree, width: int | None) -> Iterator[list[Part]]:
    """Draw a tree: a line for each session, and what they have used together."""
    last = _last_children(tree.nodes)
    top = tree.nodes[0].depth
    bars: list[bool] = []
    for node in tree.nodes:
        level = node.depth - top
        bars = bars[: max(level - 1, 0)]
        lead = "".join("│  " if bar else "   " for bar in bars)
        if level:
            ends = node.session_id in last
            lead += "└─ " if ends else "├─ "
            bars.append(not ends)
        yield [(lead, "dim"), *_described(node, None if width is None else width - len(lead))]
    yield [(_total(tree), "dim")]


def _last_children(nodes: tuple[SessionNode, ...]) -> set[str]:
    last: defaultdict[str | None, str] = defaultdict(str)
    for node in nodes[1:]:
        last[node.parent_session_id] = node.session_id
    return set(last.values())


def _described(node: SessionNode, width: int | None) -> list[Part]:
    """A session: its name, state, duration, id, and the first line of its answer in the room that is left."""
    state = node.state or node.status
    style = STYLES.get(state, "")
    name = exact(short(node.name, 60)) if node.name else "session"
    took = took_of(node)
    head = f"{MARKS[node.state]} {name}" if node.state is not None else name
    tail = f" {state}{f' {took}' if took else ''}"
    where = f" {node.session_id}"
    room = 100 if width is None else width - len(head) - len(tail) - len(where) - 2
    came = what_came_of(node, 200)
    came = came if len(came) <= room else f"{came[: room - 1]}…"
    parts: list[Part] = [(head, "bold"), (tail, style), (where, "dim")]
    return [*parts, f"  {came}"] if came and room > 10 else parts


def _total(tree: SessionTree) -> str:
    open_ones = sum(node.state is not None and node.state not in ENDED for node in tree.nodes)
    count = len(tree.nodes)
    parts = [f"{count} session{'s' if count > 1 else ''}"]
    if tree.truncated:
        parts = [f"the first {count} sessions: the tree of one of them shows what is below it"]
    if open_ones:
        parts.append(f"{open_ones} at work")
    if tree.usage is not None:
        parts += _used(tree.usage)
    return ", ".join(parts)


def _used(usage: Usage) -> Iterator[str]:
    yield f"{usage.input_tokens} tokens in"
    yield f"{usage.output_tokens} out"
    if usage.estimated_cost_usd is not None:
        yield f"about ${usage.estimated_cost_usd:.4f}"
