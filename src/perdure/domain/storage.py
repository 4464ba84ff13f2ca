"""Key-values and secrets of a session, and how secrets are kept out of sight."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.times import CreatedAt, UpdatedAt

MAX_KEY = 200
MAX_VALUE = 256 * 1024
"""Characters of one value."""
MAX_KEYS = 1_000
MAX_SECRETS = 100
MAX_SECRET = 32 * 1024
"""Characters of one secret."""
MAX_SECRETS_SIZE = 256 * 1024
"""Bytes of a session's secrets together: whatever happens in it is searched for all of them."""

StorageKey = Annotated[
    str, Meta(min_length=1, max_length=MAX_KEY, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["customer_id"])
]
SecretValue = Annotated[str, Meta(min_length=1, max_length=MAX_SECRET)]


class KeyValue(Struct, frozen=True):
    """A value under a key."""

    key: Annotated[str, Meta(description="The key.", examples=["customer_id"])]
    value: Annotated[str, Meta(description="The text stored under the key.", examples=["4711"])]
    created_at: CreatedAt
    updated_at: UpdatedAt


class SecretInfo(Struct, frozen=True):
    """That there is a secret of this name; its value is never shown."""

    name: Annotated[str, Meta(description="The secret's name.", examples=["SHOP_TOKEN"])]
    created_at: CreatedAt
    updated_at: UpdatedAt


class SetSecrets(Struct, frozen=True):
    """The body of `PUT /v1/sessions/{session_id}/storage/secrets`: names and values; the others stay."""

    secrets: Annotated[
        dict[StorageKey, SecretValue],
        Meta(description="The secrets to store: values by name.", min_length=1, max_length=MAX_SECRETS),
    ]


class SecretsSet(Struct, frozen=True):
    """How many secrets were written."""

    count: Annotated[int, Meta(description="The number of secrets that were stored.", examples=[1])]


_KEY = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_KEY}}}")


def check_key(key: str, field: str = "key") -> None:
    """Accept only a `StorageKey`. Raises InvalidInput."""
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"`{field}` must hold 1 to {MAX_KEY} characters, none of them a control character", field=field
        )


def check_value(value: str) -> None:
    """Accept only a value that a session may keep under a key. Raises InvalidInput."""
    if len(value) > MAX_VALUE:
        raise InvalidInput(f"`value` may hold {MAX_VALUE} characters", field="value")


def check_secrets(secrets: dict[str, str]) -> None:
    """Accept only names and values as they are in `SetSecrets`. Raises InvalidInput."""
    for name, value in secrets.items():
        check_key(name)
        if not 1 <= len(value) <= MAX_SECRET:
            raise InvalidInput(f"a secret must hold 1 to {MAX_SECRET} characters", field="secrets")


def check_room(held: dict[str, int], given: dict[str, str]) -> None:
    """See whether a session may hold these secrets as well.

    Args:
        held: the bytes that each of its secrets takes, by name.

    Raises:
        InvalidInput: they are too many, or too long together.
    """
    sizes = held | {name: len(value.encode()) for name, value in given.items()}
    if len(sizes) > MAX_SECRETS:
        raise InvalidInput(
            f"a session holds at most {MAX_SECRETS} secrets", code="too_many_secrets", field="secrets"
        )
    if sum(sizes.values()) > MAX_SECRETS_SIZE:
        raise InvalidInput(
            f"a session's secrets hold at most {MAX_SECRETS_SIZE} bytes together",
            code="too_many_secrets",
            field="secrets",
        )
