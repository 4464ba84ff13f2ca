"""Optimistic locking: a client can change a resource only if it has seen the current version."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from perdure.domain.errors import PreconditionFailed


def version_of(editable: object) -> str:
    """Hash the fields of a resource that clients can change."""
    return blake2b(msgspec.json.encode(editable), digest_size=8).hexdigest()


def check_match(if_match: frozenset[str] | None, editable: object) -> None:
    """Check that the caller has seen the resource's current version.

    Args:
        if_match: the entity tags of `If-Match`, which begin with the version. None or `*` accept any version.
        editable: the resource's fields that clients can change, with their current values.

    Raises:
        PreconditionFailed: the resource has changed since the caller read it.
    """
    if if_match is None or "*" in if_match:
        return
    if version_of(editable) not in {tag.partition("-")[0] for tag in if_match}:
        raise PreconditionFailed("the resource has changed since it was read: read it again")
