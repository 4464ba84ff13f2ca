"""Routes of a session's key-values and secrets."""

from __future__ import annotations

from perdure.api.kernel.http import Call, Route
from perdure.api.routes.sessions import IDS
from perdure.app import storage as use
from perdure.domain.paging import Listing
from perdure.domain.storage import KeyValue, SecretInfo, SecretsSet, SetSecrets

_ONE = "/v1/sessions/{session_id}/storage"


async def list_keys(call: Call) -> Listing[KeyValue]:
    return Listing(tuple(await use.all_values(call.app, call.caller, call.params["session_id"])))


async def list_secrets(call: Call) -> Listing[SecretInfo]:
    return Listing(tuple(await use.all_secrets(call.app, call.caller, call.params["session_id"])))


async def batch_set_secrets(call: Call) -> SecretsSet:
    return await use.put_secrets(call.app, call.caller, call.params["session_id"], call.body)


ROUTES = (
    Route("GET", f"{_ONE}/keys", "list_keys", "List a session's key-values", "session storage", list_keys, ids=IDS,
          returns=Listing[KeyValue], errors=(404,)),
    Route("GET", f"{_ONE}/secrets", "list_secrets", "List the names of a session's secrets", "session storage", list_secrets,
          ids=IDS, returns=Listing[SecretInfo], errors=(404,)),
    Route("PUT", f"{_ONE}/secrets", "batch_set_secrets", "Write secrets; their values are never shown again", "session storage",
          batch_set_secrets, ids=IDS, body=SetSecrets, body_example={"secrets": {"SHOP_TOKEN": "t0k3n-value"}},
          returns=SecretsSet, errors=(404,)),
)  # fmt: skip
