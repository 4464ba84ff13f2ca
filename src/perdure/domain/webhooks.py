"""Webhooks: URLs that hear of tasks.

Those of an organization hear of the end of every task, those of a task of all its events. Requests are
signed as Standard Webhooks describes (www.standardwebhooks.com; decision 52).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.backoff import backoff
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, PushConfigId, SessionId, TaskId, WebhookId
from perdure.domain.tasks import ENDED
from perdure.domain.times import CreatedAt, Micros, Timestamp, UpdatedAt

MAX_WEBHOOKS, MAX_PUSH_CONFIGS = 100, 10
"""The most webhooks of an organization, and of a task."""
SHOWN = 50
"""The most deliveries of a webhook that are listed."""
MAX_ERROR = 300
"""Characters of what is kept of why an attempt failed."""

SECONDS = 15.0
"""Seconds that a receiver may take to answer one attempt."""
FIRST_WAIT, LONGEST_WAIT = 10.0, 6 * 3600.0
"""The longest waits after the first failed attempt, and after any, in seconds; jitter halves them at most."""
GIVE_UP_AFTER = 3 * 24 * 3600 * 1_000_000
"""Microseconds after which no further attempt is made."""
DISABLE_AFTER, DISABLE_FAILURES = 24 * 3600 * 1_000_000, 20
"""A webhook is disabled once all attempts of so many microseconds, and at least so many attempts, failed."""
KEPT = 7 * 24 * 3600 * 1_000_000
"""How long a delivery is kept, in microseconds, whatever became of it."""

SECRET_PREFIX = "whsec_"  # noqa: S105 (a prefix, not a secret)
_KEY_BYTES = range(16, 257)

TEST = "webhook.test"
"""The type of the event of a test."""
EVENTS = ("task.created", "task.updated", "task.message.sent", "task.message.received")
"""Types of the events of a session's log that webhooks hear of."""
STATES = ("queued", "running", "awaiting_input", *sorted(ENDED))
"""States by which a task's webhook may choose its events."""

WebhookKey = WebhookId | PushConfigId
DeliveryState = Literal["queued", "retrying", "delivered", "failed"]

_URL = Meta(
    description=(
        "Where events are sent, by POST: an http or https URL. Private addresses are refused unless the "
        "setting `PERDURE_PRIVATE_ADDRESSES` allows them. Redirects are not followed."
    ),
    examples=["https://hooks.example.com/perdure"],
)
_ENABLED = Meta(description="Whether events are sent.", examples=[True])
_SECRET = Meta(
    description=(
        "What requests are signed with: `whsec_` and base64 of 16 to 256 bytes, or another text of such a "
        "length, whose bytes are the key. Write-only: see `has_secret`."
    ),
)
_NEW_SECRET = Meta(description=f"{_SECRET.description} By default, the server makes one and shows it once.")
_SHOWN_SECRET = Meta(description="The secret that the server made. It is shown only here: store it.")
_HAS_SECRET = Meta(description="Whether requests are signed; all are.", examples=[True])
_DISABLED = Meta(description="Why the server has disabled it. Enable it again with `PATCH`.")
_LAST_ERROR = Meta(description="Why the last attempt failed; absent once an attempt has succeeded.")
_FILTER = Meta(
    description=(
        f"Which events to send: types ({', '.join(f'`{each}`' for each in EVENTS)}), or states, which stand "
        f"for every event of a task in them ({', '.join(f'`{each}`' for each in STATES)}). Empty: all."
    ),
)

HookUrl = Annotated[str, Meta(min_length=1, max_length=2048)]
HookSecret = Annotated[str, Meta(min_length=1, max_length=512)]
Filter = Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(max_length=20)]


class CreateTaskWebhook(Struct, frozen=True):
    """The body of `POST /v1/task-webhooks`."""

    url: Annotated[HookUrl, _URL]
    secret: Annotated[HookSecret | None, _NEW_SECRET] = None
    enabled: Annotated[bool, _ENABLED] = True


class UpdateTaskWebhook(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/task-webhooks/{webhook_id}`: omitted fields, and null, keep their values."""

    url: Annotated[HookUrl | None, _URL] = None
    secret: Annotated[HookSecret | None, _SECRET] = None
    enabled: Annotated[bool | None, _ENABLED] = None


class TaskWebhook(Struct, frozen=True, omit_defaults=True):
    """A webhook of an organization, which hears of the end of every task."""

    id: Annotated[WebhookId, Meta(description="The webhook's id.")]
    url: Annotated[str, _URL]
    enabled: Annotated[bool, _ENABLED]
    has_secret: Annotated[bool, _HAS_SECRET]
    created_at: CreatedAt
    updated_at: UpdatedAt
    secret: Annotated[str | None, _SHOWN_SECRET] = None
    disabled_reason: Annotated[str | None, _DISABLED] = None
    last_error: Annotated[str | None, _LAST_ERROR] = None


class CreatePushConfig(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/tasks/{task_id}/push-configs`."""

    url: Annotated[HookUrl, _URL]
    secret: Annotated[HookSecret | None, _NEW_SECRET] = None
    event_filter: Annotated[Filter | None, _FILTER] = None


class TaskPushConfig(Struct, frozen=True, omit_defaults=True):
    """A webhook of one task."""

    id: Annotated[PushConfigId, Meta(description="Its id.")]
    session_id: Annotated[SessionId, Meta(description="The session that began the task.")]
    task_id: Annotated[TaskId, Meta(description="The task.")]
    url: Annotated[str, _URL]
    enabled: Annotated[bool, _ENABLED]
    has_secret: Annotated[bool, _HAS_SECRET]
    created_at: CreatedAt
    updated_at: UpdatedAt
    event_filter: Annotated[Filter, _FILTER] = ()
    secret: Annotated[str | None, _SHOWN_SECRET] = None
    disabled_reason: Annotated[
        str | None, Meta(description="Why the server has disabled it. Delete it, and make another one.")
    ] = None
    last_error: Annotated[str | None, _LAST_ERROR] = None


class WebhookDelivery(Struct, frozen=True, omit_defaults=True):
    """An event on its way to a webhook."""

    id: Annotated[
        str,
        Meta(
            description="The header `webhook-id` of every attempt, by which a receiver knows repetitions.",
            examples=["delivery_7b5c8d4e5f6071829a4b3c2d1e0f9a8b"],
        ),
    ]
    type: Annotated[str, Meta(description="The event's type.", examples=["task.updated"])]
    state: Annotated[
        DeliveryState,
        Meta(
            description=(
                "`queued`: no attempt was made yet; `retrying`: the last attempt failed, and another one "
                "follows; `delivered`; `failed`: no attempt follows."
            )
        ),
    ]
    attempts: Annotated[int, Meta(description="How many attempts were made.", examples=[1])]
    created_at: CreatedAt
    session_id: Annotated[SessionId | None, Meta(description="The session whose event it is.")] = None
    task_id: Annotated[TaskId | None, Meta(description="The task.")] = None
    sequence: Annotated[int | None, Meta(description="The event's sequence in the session's log.")] = None
    status_code: Annotated[int | None, Meta(description="The HTTP status of the last attempt.")] = None
    error: Annotated[str | None, Meta(description="Why the last attempt failed.")] = None
    next_attempt_at: Annotated[Timestamp | None, Meta(description="When the next attempt is due.")] = None
    ended_at: Annotated[Timestamp | None, Meta(description="When it was delivered, or given up.")] = None


class Signed(Struct, frozen=True):
    """A request to a receiver."""

    headers: dict[str, str]
    body: bytes


def sign(secret: str, delivery_id: str, at: int, body: bytes) -> Signed:
    """Sign a request.

    Args:
        secret: the webhook's secret.
        delivery_id: the same for each attempt.
        at: the time of the attempt, in seconds since 1970.
        body: the request's body.
    """
    signed = f"{delivery_id}.{at}.".encode() + body
    mac = base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()
    headers = {
        "content-type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{mac}",
    }
    return Signed(headers, body)


def new_secret(random: bytes) -> str:
    """Make a secret of random bytes."""
    return SECRET_PREFIX + base64.b64encode(random).decode()


def key_of(secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        InvalidInput: it is not base64 after `whsec_`, or the key is too short or too long.
    """
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise _invalid_secret("must be base64 after `whsec_`") from None
    if len(key) not in _KEY_BYTES:
        raise _invalid_secret(
            f"must stand for {_KEY_BYTES.start} to {_KEY_BYTES.stop - 1} bytes, not {len(key)}"
        )
    return key


def _invalid_secret(what: str) -> InvalidInput:
    return InvalidInput(f"`secret` {what}", code="invalid_webhook_secret", field="secret")


def check_filter(wanted: Filter) -> None:
    """Check that each entry is a type of event or a state. Raises InvalidInput."""
    for index, each in enumerate(wanted):
        if each not in EVENTS and each not in STATES:
            field = f"event_filter[{index}]"
            raise InvalidInput(
                f"`{field}` must be one of {', '.join((*EVENTS, *STATES))}, not {each!r}",
                code="invalid_event_filter",
                field=field,
            )


def hears(wanted: Filter, kind: str, state: str | None) -> bool:
    """Whether a task's webhook hears of an event.

    Args:
        wanted: its filter.
        kind: the event's type.
        state: the state that the task is in after it; None if the event does not say.
    """
    return not wanted or kind in wanted or state in wanted


def next_attempt(created: Micros, failures: int, now: Micros, asked: float | None) -> Micros | None:
    """When to try again after a failed attempt; None to give up.

    Args:
        created: when the delivery was noted.
        failures: the attempts that have failed, from 1.
        now: the present.
        asked: the seconds that the receiver asks to wait; None if it does not say.
    """
    wait = max(backoff(failures, first=FIRST_WAIT, most=LONGEST_WAIT), asked or 0.0)
    due = now + round(wait * 1_000_000)
    return None if due > created + GIVE_UP_AFTER else due


def is_dead(failures: int, since: Micros | None, now: Micros) -> bool:
    """Whether a webhook's attempts have failed for so long that it is to be disabled."""
    return failures >= DISABLE_FAILURES and since is not None and now - since >= DISABLE_AFTER


def body_of_test(org_id: OrgId, hook: WebhookKey, timestamp: Timestamp) -> dict[str, object]:
    """The body of a test."""
    return {
        "type": TEST,
        "timestamp": timestamp,
        "data": {"organization_id": org_id, "webhook_id": hook},
    }
