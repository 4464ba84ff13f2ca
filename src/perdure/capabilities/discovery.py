"""Discovery: lets capabilities find text and tools before the layers are merged.

It runs outside any transaction, after the layers are loaded. A turn that continues has the tools that its
model was offered, from a stored list (`tool_lists.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.capabilities.containment import contain
from perdure.capabilities.port import (
    DISCOVERED_PROMPT,
    DISCOVERY_TIMEOUT,
    MAX_PROMPT,
    Discovered,
    DiscoveryContext,
    Tool,
)
from perdure.capabilities.registry import Active
from perdure.capabilities.shared_discoveries import Outcome, SharedDiscoveries
from perdure.capabilities.tool_lists import (
    MAX_LABEL,
    MAX_RETURNED,
    StoredDiscovery,
    ToolList,
    facts_of,
    read_list,
    redacted,
    restored,
    usable,
)
from perdure.domain.errors import PerdureError, ToolError, Undiscovered
from perdure.domain.files import Content
from perdure.domain.messages import storable
from perdure.domain.redaction import Redactor
from perdure.domain.weights import weight_of

log = logging.getLogger("perdure.discovery")

MAX_REASON = 300
"""Characters of the reason why a discovery failed."""
MAX_TOLD = 10_000
"""Characters of a reason that are searched for secrets before it is cut."""
MAX_FAULTS = 5
"""Tools that the log explains at once why they cannot be used."""
FEW_TOOLS, SMALL_TOOLS = 10, 10_000
"""The number of tools, and the weight of them all, above which checking them may take more than 10 ms, so
that a thread does it."""


class Discoveries(Struct, frozen=True):
    """What capabilities found: by capability id, and as a list to store if any of them finds tools."""

    by_id: Mapping[str, Discovered] = {}
    tools: ToolList | None = None


NOTHING = Discoveries()


async def discover(
    active: Sequence[Active],
    context: DiscoveryContext,
    shared: SharedDiscoveries,
    stored: Content | None = None,
) -> Discoveries:
    """Run the discovery of these capabilities, all at once.

    Args:
        stored: the list of tools that the model was offered, for a turn that continues.

    Raises:
        PerdureError: retryable: the database is not available.
        Undiscovered: a capability failed without which the turn must not continue.
    """
    those = [each for each in active if each.capability.discover is not None]
    known = None if stored is None else read_list(stored.data)
    if not those:
        return (
            NOTHING if stored is None or known is None else Discoveries({}, ToolList(stored, restored=True))
        )
    ready = _all_ready(those, context, shared) if those and known is None else {}
    works = {
        each.capability.id: _found(each, context, shared, _readable(known, each.capability.id))
        for each in those
        if each.capability.id not in ready
    }
    results = dict(zip(works, await _all(tuple(works.values())), strict=True)) if works else {}
    # In the order of the capabilities, which the prompt has.
    by_id = {
        each.capability.id: results.get(each.capability.id) or ready[each.capability.id] for each in those
    }
    if stored is not None and known is not None:
        return Discoveries(by_id, ToolList(stored, restored=True))
    listed = {each.capability.id for each in those if _finds_tools(each, by_id[each.capability.id])}
    if not listed:
        return Discoveries(by_id) if by_id else NOTHING
    return Discoveries(by_id, await shared.list_of({name: by_id[name] for name in sorted(listed)}))


_Offered = Mapping[str, StoredDiscovery | None]


def _readable(known: _Offered | None, identifier: str) -> _Offered | None:
    """The stored results; None for a capability whose own one cannot be read, so that it looks again."""
    if known is None or (identifier in known and known[identifier] is None):
        return None
    return known


def _all_ready(
    those: Sequence[Active], context: DiscoveryContext, shared: SharedDiscoveries
) -> dict[str, Discovered]:
    """The results that are shared and were found lately; without a task, as most turns need none."""
    now, secrets = context.now(), context.redactor.fingerprint
    redact = partial(_redacted, context.redactor)
    ready: dict[str, Discovered] = {}
    for each in those:
        try:
            name = _name_of(each, context, shared)
        except Exception:  # noqa: BLE001 (the slow path says so)
            name = None
        age = each.capability.discovery_age
        found = None if name is None else shared.ready(name, age, now, secrets, redact)
        if found is not None:
            ready[each.capability.id] = found
    return ready


def _redacted(redactor: Redactor, found: Discovered) -> Discovered:
    """A result without secrets: the same object if it has none, so that others find it quickly equal."""
    label = None if found.name is None else redactor.text(found.name)
    clean = Discovered(_cut(redactor.text(found.prompt)), redacted(found.tools, redactor), label)
    return found if clean == found else clean


async def _all(works: Sequence[Coroutine[None, None, Discovered]]) -> list[Discovered]:
    """Wait for all, also if one of them fails."""
    if len(works) == 1:
        return [await works[0]]
    results: list[Discovered] = []
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


def _finds_tools(active: Active, found: Discovered) -> bool:
    capability = active.capability
    return bool(found.tools or capability.restore or capability.discovery_key)


async def _found(
    active: Active,
    context: DiscoveryContext,
    shared: SharedDiscoveries,
    offered: _Offered | None,
) -> Discovered:
    """One capability's result without secrets: as stored, or found now.

    Args:
        offered: what the model was offered, for a turn that continues. Tools that were found since then are
            left out.
    """
    capability, redactor = active.capability, context.redactor
    known = None if offered is None else offered.get(capability.id)
    if known is not None and (capability.restore is not None or not known.tools):
        return restored(active, known, ())
    outcome, name = await _outcome(active, context, shared)
    found = outcome.found
    if known is not None:
        return restored(active, known, () if found is None else found.tools)
    if found is None:
        reason = redactor.text(storable(outcome.reason))[:MAX_REASON].rstrip(". ")
        if capability.discovery_failure == "fail_turn" or outcome.fatal:
            raise Undiscovered(f"The capability {capability.id!r} could not find its tools: {reason}.")
        return Discovered(_note(reason), fault=reason or "it gave no reason")
    if offered is not None:
        return replace(_redacted(redactor, replace(found, tools=())), tools=())
    if name is None:
        return _redacted(redactor, found)
    return shared.redacted(name, found, redactor.fingerprint, partial(_redacted, redactor))


def _note(reason: str) -> str:
    """What the prompt says of a discovery that failed."""
    return (
        f"(The content of this section could not be read: {reason}. Its tools, if it has any, are missing. "
        "Continue without them, and say so if the task needs them.)"
    )


def _told(reason: str) -> str:
    if len(reason) <= MAX_TOLD:
        return reason
    return f"the reason has {len(reason)} characters, which are too many to show"


def _cut(prompt: str) -> str:
    left = len(prompt) - DISCOVERED_PROMPT
    return prompt if left <= 0 else f"{prompt[:DISCOVERED_PROMPT]}\n[... {left} characters left out ...]"


def _name_of(active: Active, context: DiscoveryContext, shared: SharedDiscoveries) -> bytes | None:
    """Whatever a capability's result depends on, as a digest; None: it is not shared."""
    capability = active.capability
    if capability.discovery_key is None:
        return None
    key = capability.discovery_key(active.config, context)
    if key is None:
        return None
    return shared.name_of((context.org_id, capability.id, key), active.config)


async def _outcome(
    active: Active, context: DiscoveryContext, shared: SharedDiscoveries
) -> tuple[Outcome, bytes | None]:
    """The outcome of a discovery, and the name under which it is shared, if it is."""
    capability = active.capability
    try:
        name = _name_of(active, context, shared)
        age = float(capability.discovery_age)
    except Exception as failure:
        log.exception("the discovery key of the capability %s cannot be computed", capability.id)
        return Outcome(None, type(failure).__name__), None
    attempt = partial(_attempt, active, context)
    if name is None:
        return await attempt(None), None
    owner = (context.org_id, capability.id)
    return await shared.outcome(name, owner, age, context.now, attempt), name


def _check_result(found: Any) -> None:
    """Check the types of what a capability has returned. Raises ToolError."""
    if not isinstance(found, Discovered):
        raise ToolError(f"it returned {type(found).__name__} instead of `Discovered`")
    prompt: Any = found.prompt
    if not isinstance(prompt, str) or not isinstance(found.tools, tuple | list):
        raise ToolError("it must return `Discovered` with a text as `prompt` and a tuple as `tools`")
    if len(prompt) > MAX_PROMPT:
        raise ToolError(f"its prompt has {len(prompt)} characters, and may have at most {MAX_PROMPT}")
    if len(found.tools) > MAX_RETURNED:
        raise ToolError(f"it returned {len(found.tools)} tools, and may return at most {MAX_RETURNED}")


async def _usable(found: Discovered) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools that can be offered, and why the others cannot. Raises ToolError: they are too large."""
    if len(found.tools) > FEW_TOOLS or weight_of(facts_of(found.tools), SMALL_TOOLS) > SMALL_TOOLS:
        return await asyncio.to_thread(usable, found.tools)
    return usable(found.tools)


async def _attempt(active: Active, context: DiscoveryContext, before: Outcome | None) -> Outcome:
    """Run a capability's discovery once.

    Args:
        before: the outcome before, which stays if the capability returns the same object.

    Raises:
        PerdureError: retryable: the database is not available.
    """
    capability = active.capability
    if capability.discover is None:
        raise AssertionError(f"the capability {capability.id} discovers nothing")
    try:
        call = partial(capability.discover, active.config, context)
        if capability.reads_database:
            found = await call()
        else:
            found = await contain(call, DISCOVERY_TIMEOUT, f"the discovery of {capability.id}")
        if before is not None and found is before.given and before.found is not None:
            return before
        _check_result(found)
        tools, faults = await _usable(found)
        prompt = storable(found.prompt)
        label = None if found.name is None else storable(str(found.name)[:MAX_LABEL])
    except TimeoutError:
        log.warning("the discovery of the capability %s took too long", capability.id)
        return Outcome(None, f"it took longer than {DISCOVERY_TIMEOUT:g} seconds")
    except PerdureError as failure:
        if failure.retryable and (capability.reads_database or capability.needs_database):
            raise
        told = _told(failure.message)
        shown = context.redactor.text(storable(told))[:MAX_REASON]
        log.warning("discovery failed for the capability %s: %s (%s)", capability.id, shown, failure.code)
        return Outcome(None, told, fatal=isinstance(failure, Undiscovered))
    except Exception as failure:
        log.exception("discovery failed for the capability %s", capability.id)
        return Outcome(None, type(failure).__name__)
    if faults:
        some = context.redactor.text(storable("; ".join(fault[:MAX_REASON] for fault in faults[:MAX_FAULTS])))
        log.warning("%d tools of the capability %s cannot be offered: %s", len(faults), capability.id, some)
        prompt = f"[{len(faults)} tools are left out: their definitions cannot be used.]\n{prompt}".strip()
    return Outcome(Discovered(prompt, tools, label), given=found)
