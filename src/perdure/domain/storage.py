"""A session's key-value pairs and secrets: wire formats, limits and checks."""

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
SHORTEST_REDACTED = 4
"""Characters of the shortest secret that is redacted: shorter ones would match anywhere in ordinary text."""
MAX_SECRETS_SIZE = 256 * 1024
"""Total bytes of a session's secrets. Everything that a session logs is searched for all of them."""

StorageKey = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_KEY, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)", examples=["customer_id"]),
]
SecretValue = Annotated[str, Meta(min_length=1, max_length=MAX_SECRET)]


class KeyValue(Struct, frozen=True):
    """A key with its value."""

    key: Annotated[str, Meta(description="The key.", examples=["customer_id"])]
    value: Annotated[str, Meta(description="The text stored under the key.", examples=["4711"])]
    created_at: CreatedAt
    updated_at: UpdatedAt


class SecretInfo(Struct, frozen=True):
    """A secret's name and times; its value is never shown."""

    name: Annotated[str, Meta(description="The secret's name.", examples=["SHOP_TOKEN"])]
    created_at: CreatedAt
    updated_at: UpdatedAt


class SetSecrets(Struct, frozen=True):
    """The body of `PUT /v1/sessions/{session_id}/storage/secrets`. Secrets that it does not name stay."""

    secrets: Annotated[
        dict[StorageKey, SecretValue],
        Meta(description="The secrets to store: values by name.", min_length=1, max_length=MAX_SECRETS),
    ]


class SecretsSet(Struct, frozen=True):
    """The number of secrets that were stored."""

    count: Annotated[int, Meta(description="The number of secrets that were stored.", examples=[1])]


_KEY = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_KEY}}}")


def check_key(key: str, field: str = "key") -> None:
    """Check that the text is a valid `StorageKey`. Raises InvalidInput."""
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"`{field}` must have 1 to {MAX_KEY} characters and no control characters", field=field
        )


def check_value(value: str) -> None:
    """Check the length of a value. Raises InvalidInput."""
    if len(value) > MAX_VALUE:
        raise InvalidInput(
            f"`value` may have at most {MAX_VALUE} characters, but has {len(value)}", field="value"
        )


def check_secrets(secrets: dict[str, str]) -> None:
    """Check names and values by the rules of `SetSecrets`. Raises InvalidInput."""
    for name, value in secrets.items():
        check_key(name)
        if not 1 <= len(value) <= MAX_SECRET:
            raise InvalidInput(
                f"the secret {name!r} must have 1 to {MAX_SECRET} characters, but has {len(value)}",
                field="secrets",
            )


def check_room(stored: dict[str, int], new: dict[str, str]) -> None:
    """Check that a session may store these secrets in addition to its present ones.

    Args:
        stored: the bytes of each stored secret, by name.
        new: the values to store, by name.

    Raises:
        InvalidInput: there would be too many secrets, or too many bytes in total.
    """
    sizes = stored | {name: len(value.encode()) for name, value in new.items()}
    if len(sizes) > MAX_SECRETS:
        raise InvalidInput(
            f"a session holds at most {MAX_SECRETS} secrets: delete one first",
            code="too_many_secrets",
            field="secrets",
        )
    if (total := sum(sizes.values())) > MAX_SECRETS_SIZE:
        raise InvalidInput(
            f"a session's secrets may have at most {MAX_SECRETS_SIZE} bytes in total, but would have {total}",
            code="too_many_secrets",
            field="secrets",
        )
