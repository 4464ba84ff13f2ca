"""Routes of a session's key-value pairs and secrets."""

from __future__ import annotations

from perdure.api.kernel.call import Call, Chunked, json_list
from perdure.api.kernel.route import route
from perdure.app import storage as use
from perdure.domain.ids import SessionId
from perdure.domain.paging import Listing
from perdure.domain.storage import KeyValue, SecretInfo, SecretsSet, SetSecrets


@route("GET", "/v1/sessions/{session_id}/storage/keys", "session storage", errors=(404,))
async def list_keys(call: Call, session_id: SessionId) -> Chunked[Listing[KeyValue]]:
    """List a session's key-value pairs.

    Sorted by key, with their values.
    """
    return Chunked(json_list(use.all_values(call.app, call.caller, session_id)))


@route("GET", "/v1/sessions/{session_id}/storage/secrets", "session storage", errors=(404,))
async def list_secrets(call: Call, session_id: SessionId) -> Listing[SecretInfo]:
    """List the names of a session's secrets.

    Values of secrets are never returned.
    """
    return Listing(tuple(await use.all_secrets(call.app, call.caller, session_id)))


@route(
    "PUT",
    "/v1/sessions/{session_id}/storage/secrets",
    "session storage",
    errors=(404,),
    body_example={"secrets": {"SHOP_TOKEN": "t0k3n-value"}},
)
async def batch_set_secrets(call: Call, session_id: SessionId, body: SetSecrets) -> SecretsSet:
    """Set secrets of a session.

    Values are stored encrypted, never returned, and redacted wherever they would appear. Secrets that the
    request does not name are kept.
    """
    return await use.put_secrets(call.app, call.caller, session_id, body)


ROUTES = (
    list_keys,
    list_secrets,
    batch_set_secrets,
)
