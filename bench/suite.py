"""The measures by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bench.budgets import budgets
from bench.callbacks import callbacks
from bench.fallbacks import fallbacks
from bench.figures import Once, Scale
from bench.files import files
from bench.guardrails import guardrails
from bench.history import history
from bench.limits import audience, crowds, observed, surge, sweep, takeover
from bench.mcp import mcp
from bench.memory import memory
from bench.outputs import outputs
from bench.requests import requests
from bench.roles import roles
from bench.scale import scale
from bench.soak import soak
from bench.stalls import stalls
from bench.start import start
from bench.streams import crowd, followers, streams
from bench.tools import tools
from bench.trees import trees
from bench.turns import turns
from bench.variant import Variant

Measure = Callable[[Variant, Scale], AbstractAsyncContextManager[Once]]
"""Prepares a variant for the measure, and yields the function that measures once."""

MEASURES: dict[str, Measure] = {
    "start": start,
    "turns": turns,
    "requests": requests,
    "streams": streams,
    "followers": followers,
    "crowd": crowd,
    "history": history,
    "files": files,
    "stalls": stalls,
    "tools": tools,
    "callbacks": callbacks,
    "fallbacks": fallbacks,
    "mcp": mcp,
    "trees": trees,
    "outputs": outputs,
    "budgets": budgets,
    "guardrails": guardrails,
    "scale": scale,
    "memory": memory,
    "soak": soak,
    "surge": surge,
    "audience": audience,
    "takeover": takeover,
    "observed": observed,
    "roles": roles,
    "sweep": sweep,
    "crowds": crowds,
}

LONG = ("soak", "surge", "audience", "takeover", "observed", "roles", "sweep", "crowds")
"""Measures that run only if they are named."""
