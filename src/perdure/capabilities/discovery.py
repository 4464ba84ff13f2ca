"""Discovery: lets capabilities read from the session before the layers are merged.

It runs outside any transaction, after the layers are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial

from msgspec.structs import replace

from perdure.capabilities.containment import contain
from perdure.capabilities.port import (
    DISCOVERED_PROMPT,
    DISCOVERY_TIMEOUT,
    Discover,
    Discovered,
    DiscoveryContext,
)
from perdure.capabilities.registry import Active
from perdure.domain.errors import PerdureError

log = logging.getLogger("perdure.discovery")

UNREAD = "(The content of this section could not be read.)"
"""The prompt of a capability whose discovery fails: the turn continues, and the model knows that something is
missing."""


async def discover(active: Iterable[Active], context: DiscoveryContext) -> Mapping[str, Discovered]:
    """Run the discovery of these capabilities; returns the results by capability id.

    Raises:
        PerdureError: retryable: the database is not available.
    """
    return {
        each.capability.id: await _discover(each, each.capability.discover, context)
        for each in active
        if each.capability.discover is not None
    }


async def _discover(active: Active, discover: Discover, context: DiscoveryContext) -> Discovered:
    try:
        call = partial(discover, active.config, context)
        if active.capability.reads_database:
            discovered = await call()
        else:
            name = f"the discovery of {active.capability.id}"
            discovered = await contain(call, DISCOVERY_TIMEOUT, name)
        prompt = context.redactor.text(discovered.prompt)
    except Exception as failure:
        if isinstance(failure, PerdureError) and failure.retryable:
            raise
        log.exception("discovery failed for the capability %s", active.capability.id)
        return Discovered(UNREAD)
    left = len(prompt) - DISCOVERED_PROMPT
    if left > 0:
        prompt = f"{prompt[:DISCOVERED_PROMPT]}\n[... {left} characters left out ...]"
    return replace(discovered, prompt=prompt)
