"""Versions of what clients can change: nobody overwrites what they have not seen."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from perdure.domain.errors import PreconditionFailed


def version_of(editable: object) -> str:
    """The version of what clients can change of a resource: other content, other version."""
    return blake2b(msgspec.json.encode(editable), digest_size=8).hexdigest()


def check_match(wanted: frozenset[str] | None, editable: object) -> None:
    """Accept a change only of what the caller has seen.

    Args:
        wanted: entity tags that begin with the version; None, or `*` among them, accepts any.
        editable: what clients can change of the resource, as it is now.

    Raises:
        PreconditionFailed: the resource has changed since.
    """
    if wanted is None or "*" in wanted:
        return
    if version_of(editable) not in {tag.partition("-")[0] for tag in wanted}:
        raise PreconditionFailed("the resource has changed since it was read: read it again")
