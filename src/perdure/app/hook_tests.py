"""Tests of policy hooks."""

from __future__ import annotations

import time

import msgspec

from perdure.app.context import App
from perdure.app.hook_secrets import sealed_config
from perdure.domain.accounts import Caller
from perdure.domain.hook_tests import AskHook, HookReply, made_up
from perdure.domain.policy_hooks import (
    POLICY_HOOK,
    NoDecision,
    hook_of,
    question_id,
    read_answer,
    sealed_bytes,
)
from perdure.domain.tools import CapabilityRef
from perdure.domain.webhooks import sign
from perdure.net.hook_http import HookClient


async def ask_made_up(app: App, caller: Caller, body: AskHook) -> HookReply:
    """Ask a hook about a call that is made up. Nothing is stored.

    Raises:
        InvalidInput: the configuration cannot be used.
    """
    org_id = caller.organization_id
    app.registry.check((CapabilityRef(POLICY_HOOK, body.config),), "config")
    hook = hook_of(await sealed_config(app, org_id, body.config, "config"))
    sealed = sealed_bytes(hook.secret)
    secret = await app.database.read(lambda tx: app.vault.open(tx, org_id, sealed, hook.binding))
    encoded = msgspec.json.encode(made_up(body, org_id, caller.user_id))
    request = sign(secret, question_id(hook, encoded), app.now() // 1_000_000, encoded)
    client, began = HookClient(app.private_addresses), time.perf_counter()
    try:
        answer = read_answer(await client.ask(org_id, hook.url, request, hook.timeout_seconds), body.event)
    except NoDecision as error:
        return HookReply(
            False,
            _passed(began),
            error=str(error),
            on_failure="closed" if hook.is_closed(body.event) else "open",
        )
    finally:
        await client.close()
    return HookReply.of(answer, _passed(began))


def _passed(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)
