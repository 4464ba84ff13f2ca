"""Discovery: what capabilities have to look up before the layers are merged.

It runs outside any transaction, between loading the layers and merging them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

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

UNREAD = "(What belongs here could not be read just now.)"
"""What the model is told when a capability's discovery fails: the turn goes on, and the model knows that
something is missing."""


async def discover(active: Iterable[Active], context: DiscoveryContext) -> Mapping[str, Discovered]:
    """What these capabilities find, by capability id. Without any that discovers, it costs nothing.

    Raises:
        PerdureError: a retryable one, when the database is away.
    """
    return {
        each.capability.id: await _discover(each, each.capability.discover, context)
        for each in active
        if each.capability.discover is not None
    }


async def _discover(active: Active, look: Discover, context: DiscoveryContext) -> Discovered:
    try:
        found = await asyncio.wait_for(look(active.config, context), DISCOVERY_TIMEOUT)
        prompt = context.redactor.text(found.prompt)
    except Exception as failure:
        if isinstance(failure, PerdureError) and failure.retryable:
            raise
        log.exception("the capability %s could not read what it needs", active.capability.id)
        return Discovered(UNREAD)
    left = len(prompt) - DISCOVERED_PROMPT
    if left > 0:
        prompt = f"{prompt[:DISCOVERED_PROMPT]}\n[... {left} characters left out ...]"
    return replace(found, prompt=prompt)
