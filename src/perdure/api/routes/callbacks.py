"""Routes of callbacks. The token in the URL is the only credential of the one that answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.decoding import check_text, decode
from perdure.api.kernel.route import route
from perdure.app import callbacks as use
from perdure.domain.callbacks import MAX_BODY, CallbackResult, OpenCallback, result_of
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import CallbackId, SessionId
from perdure.domain.messages import JsonValue
from perdure.domain.paging import Listing

_JSON: msgspec.json.Decoder[JsonValue] = msgspec.json.Decoder()


class AnsweredCallback(Struct, frozen=True):
    """The outcome of an answered callback."""

    status: Annotated[Literal["accepted"], Meta(description="The result is stored.", examples=["accepted"])]


@route(
    "POST",
    "/v1/callbacks/{token}",
    "messages",
    errors=(400, 410, 413, 415, 429, 503),
    body_example={"result": {"tracking_number": "00340434161094042557"}},
    body_limit=MAX_BODY,
    public=True,
    admit=use.admit_answer,
)
async def answer_callback(call: Call, token: str, body: bytes) -> AnsweredCallback:
    """Answer a callback.

    Gives a tool call its result, for which the call may have been waiting for days. The token in the URL is
    the credential; it is valid once. The body is the result: JSON, or text of a type `text/*`, up to 100 KB.
    `{"error": "..."}` alone fails the call, and `{"result": ...}` alone is unwrapped. The same body again, as
    after a lost response, gets the same response for a day, and has no further effect. 410 once the callback
    was answered otherwise or cancelled, or its time is over, and for unknown tokens. 429 if one URL is used
    more than once a second on average, or 60 times at once.
    """
    await use.answer_callback(call.app, token, _result(call, body))
    return AnsweredCallback("accepted")


def _result(call: Call, body: bytes) -> CallbackResult:
    """Decode the result. Text types are text; anything else is JSON, or else text."""
    if not body:
        return CallbackResult()
    media = (call.header(b"content-type") or "").lower()
    if not media.startswith("text/"):
        try:
            return result_of(decode(_JSON, body))
        except InvalidInput:
            if "json" in media:
                raise
    try:
        return CallbackResult(check_text(body.decode()))
    except UnicodeDecodeError:
        raise InvalidInput("the body is neither JSON nor text in UTF-8", code="invalid_text") from None


@route("GET", "/v1/sessions/{session_id}/callbacks", "messages", errors=(404,))
async def list_callbacks(call: Call, session_id: SessionId) -> Listing[OpenCallback]:
    """List a session's open callbacks.

    Oldest first, without their URLs: a URL is known only to the tool that made it.
    """
    return Listing(tuple(await use.open_callbacks(call.app, call.caller, session_id)))


@route("DELETE", "/v1/sessions/{session_id}/callbacks/{callback_id}", "messages", errors=(404,))
async def cancel_callback(call: Call, session_id: SessionId, callback_id: CallbackId) -> None:
    """Cancel an open callback.

    Its URL then answers with 410. The tool call that waits for it fails, and the turn continues; nobody knows
    whether the call took effect. 404 if the callback is not open.
    """
    await use.cancel_callback(call.app, call.caller, session_id, callback_id)


ROUTES = (answer_callback, list_callbacks, cancel_callback)
