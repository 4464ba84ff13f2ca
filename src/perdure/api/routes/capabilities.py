"""Routes of capabilities."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.agents import Search
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import capabilities as use
from perdure.app import guardrails as trials
from perdure.app import hook_tests as hook_use
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.guardrail_examples import guardrail_examples
from perdure.domain.guardrail_trials import DryRunGuardrails, GuardrailExamples, GuardrailsDryRun
from perdure.domain.hook_tests import AskHook, HookReply
from perdure.domain.paging import Page


class ListCapabilities(Struct, frozen=True):
    """Query parameters of the list of capabilities."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the id, the name or the description, case-insensitive."),
    ] = None
    offset: Offset = 0
    limit: Limit = 20


@route("GET", "/v1/capabilities", "capabilities")
async def list_capabilities(call: Call, query: ListCapabilities) -> Page[CapabilityInfo]:
    """List capabilities.

    Sorted by id, each with its tools. The organization's MCP servers follow, as `mcp:{id}`, without theirs,
    and then its skills, as `skill:{id}`.
    """
    return await use.page_of_capabilities(call.app, call.caller, query.search, query.offset, query.limit)


@route("GET", "/v1/capabilities/{capability_id}", "capabilities", errors=(404,))
async def get_capability(call: Call, capability_id: str) -> CapabilityInfo:
    """Get a capability.

    `capability_id` may be the capability's id or one of its aliases.
    """
    return await use.read_capability(call.app, call.caller, capability_id)


@route(
    "POST",
    "/v1/capabilities/guardrails/dry-run",
    "capabilities",
    body_example={
        "config": {"checks": [{"type": "pii", "id": "card_numbers", "kinds": ["credit_card"]}]},
        "stage": "output",
        "text": "The card is 4111 1111 1111 1111.",
    },
)
async def dry_run_guardrails(call: Call, body: DryRunGuardrails) -> GuardrailsDryRun:
    """Try guardrails on a text.

    Checks the configuration, and the text with its checks of this stage. Stores nothing. Judges and
    moderation services are not called; `not_run` names them.
    """
    return await trials.dry_run(body)


@route("GET", "/v1/capabilities/guardrails/examples", "capabilities")
async def list_guardrail_examples(call: Call) -> GuardrailExamples:
    """List examples of guardrails.

    Each has a configuration of the capability `guardrails` to start from.
    """
    return guardrail_examples()


@route(
    "POST",
    "/v1/capabilities/policy_hook/test",
    "capabilities",
    body_example={
        "config": {
            "url": "https://policy.example.com/decide",
            "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        },
        "event": "before_tool",
        "tool_name": "web_fetch",
        "arguments": {"url": "https://example.com/"},
    },
)
async def ask_policy_hook(call: Call, body: AskHook) -> HookReply:
    """Test a policy hook.

    Asks the hook about a call that is made up (with `test`: true), as a session would, and returns what it
    answered. Nothing is stored, and nothing else happens.
    """
    return await hook_use.ask_made_up(call.app, call.caller, body)


ROUTES = (
    dry_run_guardrails,
    list_guardrail_examples,
    list_capabilities,
    get_capability,
    ask_policy_hook,
)
