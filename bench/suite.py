"""The measures by name, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bench.figures import Once, Scale
from bench.files import files
from bench.history import history
from bench.memory import memory
from bench.place import Place
from bench.requests import requests
from bench.scale import scale
from bench.start import start
from bench.streams import crowd, followers, streams
from bench.tools import tools
from bench.turns import turns

Measure = Callable[[Place, Scale], AbstractAsyncContextManager[Once]]
"""Prepares what it needs on a place, and gives the function that measures once."""

MEASURES: dict[str, Measure] = {
    "start": start,
    "turns": turns,
    "requests": requests,
    "streams": streams,
    "followers": followers,
    "crowd": crowd,
    "history": history,
    "files": files,
    "tools": tools,
    "scale": scale,
    "memory": memory,
}
