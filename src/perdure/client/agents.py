"""Agents with their versions, harnesses and capabilities."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct

from perdure.client import routes
from perdure.client.routes import Caller, every, listed, new_key, path_of
from perdure.client.transport import Text
from perdure.domain.agent_versions import (
    AgentVersion,
    AgentVersionDiff,
    CreateAgentVersion,
    ForkAgentVersion,
    RollbackAgentVersion,
    SetDefaultAgentVersion,
)
from perdure.domain.agents import Agent, CreateAgent, UpdateAgent
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.guardrail_trials import (
    DryRunGuardrails,
    GuardrailExample,
    GuardrailExamples,
    GuardrailsDryRun,
)
from perdure.domain.harnesses import CreateHarness, Harness, HarnessExample, UpdateHarness
from perdure.domain.hook_tests import AskHook, HookReply
from perdure.domain.paging import Page
from perdure.domain.previews import AgentPreview, Analysis, HarnessPreview, PreviewAgent, PreviewHarness
from perdure.domain.resources import NameCheck, ResourceConfig, ResourceStats

P = ParamSpec("P")
R = TypeVar("R")

_AGENT = "/v1/agents/{}"
_VERSIONS = f"{_AGENT}/versions"
_VERSION = f"{_VERSIONS}/{{}}"
_HARNESS = "/v1/harnesses/{}"


class AgentMethods(Caller):
    """The client's methods about agents. An agent is named by its id or its name."""

    create_agent = routes.creates(
        "/v1/agents", CreateAgent, Agent, "Create an agent, or update the one with this id or name."
    )
    get_agent = routes.reads(_AGENT, Agent, "Return an agent.")
    update_agent = routes.updates(_AGENT, UpdateAgent, Agent, "Change an agent.")
    delete_agent = routes.sends("DELETE", _AGENT, "Archive an agent: it starts no more turns.")
    copy_agent = routes.acts("POST", f"{_AGENT}/copy", Agent, "Copy an agent.", creates=True)
    get_agent_stats = routes.reads(f"{_AGENT}/stats", ResourceStats, "Count what an agent has done.")
    get_agent_config = routes.fetches(
        "/v1/agents/config", ResourceConfig, "Return what the caller may do with agents."
    )
    preview_agent = routes.posts(
        "/v1/agents/preview", PreviewAgent, AgentPreview, "Show an agent as the model would see it."
    )
    analyze_agent = routes.posts(
        "/v1/agents/analyze", PreviewAgent, Analysis, "Check an agent's configuration for problems."
    )

    async def list_agents(
        self,
        *,
        search: str | None = None,
        include_archived: bool | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[Agent]:
        """List the organization's agents."""
        params = [
            ("search", search),
            ("include_archived", include_archived),
            ("offset", offset),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/agents", Page[Agent], params=params)

    def iterate_agents(
        self, *, search: str | None = None, include_archived: bool | None = None
    ) -> AsyncGenerator[Agent, None]:
        """Iterate over all agents that match, page by page."""

        def fetch(offset: int) -> Coroutine[Any, Any, Page[Agent]]:
            return self.list_agents(
                search=search, include_archived=include_archived, offset=offset, limit=100
            )

        return every(fetch, lambda agent: agent.id)

    async def check_agent_name(self, name: str, *, exclude_id: str | None = None) -> NameCheck:
        """Check whether an agent may have this name; the agent `exclude_id` may have it already."""
        params = [("name", name), ("exclude_id", exclude_id)]
        return await self.call("GET", "/v1/agents/check-name", NameCheck, params=params)

    async def export_agent(self, agent_id: str) -> str:
        """Return an agent as a Markdown file with YAML front matter, which `import_agent` takes."""
        return (await self.transport.request("GET", path_of(f"{_AGENT}/export", agent_id))).decode()

    async def import_agent(self, text: str = "", *, example: str | None = None) -> Agent:
        """Create an agent from a file, or replace the one of that name.

        Args:
            text: Markdown with YAML front matter, a YAML or JSON document, or just a prompt.
            example: the name of a built-in example, instead of a text.
        """
        params = [("from-example", example)]
        body = Text(text, "text/markdown")
        return await self.call("POST", "/v1/agents/import", Agent, params=params, body=body, once=new_key())


def _on_version(
    action: str, body: Callable[P, Struct], about: str
) -> Callable[Concatenate[Caller, str, str, P], Coroutine[Any, Any, Agent]]:
    """Build a method that takes the ids of an agent and of one of its versions."""

    async def call(
        self: Caller, agent_id: str, version_id: str, /, *args: P.args, **kwargs: P.kwargs
    ) -> Agent:
        path = path_of(f"{_VERSION}/{action}", agent_id, version_id)
        return await self.call("POST", path, Agent, body=body(*args, **kwargs))

    call.__doc__ = f"{about}\n\nTakes the ids of the agent and the version, then `{body.__name__}`'s fields."
    return call


class AgentVersionMethods(Caller):
    """The client's methods about versions of agents."""

    create_agent_version = routes.creates_under(
        _VERSIONS,
        CreateAgentVersion,
        AgentVersion,
        "Mark an agent's configuration as a version.",
        once=False,
    )
    fork_agent_version = _on_version("fork", ForkAgentVersion, "Create an agent from a version of another.")
    rollback_agent_version = _on_version(
        "rollback", RollbackAgentVersion, "Set an agent's configuration back to that of a version."
    )

    async def list_agent_versions(
        self, agent_id: str, *, offset: int = 0, limit: int = 50
    ) -> tuple[AgentVersion, ...]:
        """List an agent's versions, newest first."""
        params = [("offset", offset), ("limit", limit)]
        path = path_of(_VERSIONS, agent_id)
        return await self.call("GET", path, tuple[AgentVersion, ...], params=params)

    async def set_default_agent_version(self, agent_id: str, version_id: str | None) -> Agent:
        """Choose the version that new sessions use; None for none, so that they follow the agent."""
        body = SetDefaultAgentVersion(version_id)
        return await self.call("POST", path_of(f"{_VERSIONS}/default", agent_id), Agent, body=body)

    async def diff_agent_versions(
        self, agent_id: str, from_version_id: str, to_version_id: str
    ) -> AgentVersionDiff:
        """Compare two versions of an agent."""
        path = path_of(f"{_VERSION}/diff/{{}}", agent_id, from_version_id, to_version_id)
        return await self.call("GET", path, AgentVersionDiff)


class HarnessMethods(Caller):
    """The client's methods about harnesses. A harness is named by its id or its name."""

    create_harness = routes.creates("/v1/harnesses", CreateHarness, Harness, "Create a harness.")
    get_harness = routes.reads(_HARNESS, Harness, "Return a harness.")
    update_harness = routes.updates(_HARNESS, UpdateHarness, Harness, "Change a harness.")
    delete_harness = routes.sends("DELETE", _HARNESS, "Archive a harness.")
    copy_harness = routes.acts("POST", f"{_HARNESS}/copy", Harness, "Copy a harness.", creates=True)
    get_harness_stats = routes.reads(f"{_HARNESS}/stats", ResourceStats, "Count what a harness has done.")
    get_harness_config = routes.fetches(
        "/v1/harnesses/config", ResourceConfig, "Return what the caller may do with harnesses."
    )
    preview_harness = routes.posts(
        "/v1/harnesses/preview", PreviewHarness, HarnessPreview, "Show a harness as the model would see it."
    )

    async def list_harnesses(
        self, *, search: str | None = None, include_archived: bool | None = None
    ) -> tuple[Harness, ...]:
        """List the organization's harnesses, including the built-in ones."""
        params = [("search", search), ("include_archived", include_archived)]
        return await listed(self, "/v1/harnesses", Harness, params)

    async def list_harness_examples(self) -> tuple[HarnessExample, ...]:
        """List the built-in examples that `import_harness` takes."""
        return await self.call("GET", "/v1/harness-examples", tuple[HarnessExample, ...])

    async def import_harness(self, example: str) -> Harness:
        """Create a harness from a built-in example."""
        params = [("from-example", example)]
        return await self.call("POST", "/v1/harnesses/import", Harness, params=params, once=new_key())

    async def check_harness_name(self, name: str, *, exclude_id: str | None = None) -> NameCheck:
        """Check whether a harness may have this name; the harness `exclude_id` may have it already."""
        params = [("name", name), ("exclude_id", exclude_id)]
        return await self.call("GET", "/v1/harnesses/check-name", NameCheck, params=params)


class CapabilityMethods(Caller):
    """The client's methods about capabilities."""

    test_policy_hook = routes.posts(
        "/v1/capabilities/policy_hook/test",
        AskHook,
        HookReply,
        "Ask a policy hook about a call that is made up; return what it answered.",
    )
    get_capability = routes.reads("/v1/capabilities/{}", CapabilityInfo, "Return a capability.")
    dry_run_guardrails = routes.posts(
        "/v1/capabilities/guardrails/dry-run",
        DryRunGuardrails,
        GuardrailsDryRun,
        "Check a text with guardrails, without a session. Services and judges are not called.",
    )

    async def list_guardrail_examples(self) -> tuple[GuardrailExample, ...]:
        """List configurations of guardrails to start from."""
        found = await self.call("GET", "/v1/capabilities/guardrails/examples", GuardrailExamples)
        return found.examples

    async def list_capabilities(
        self, *, search: str | None = None, offset: int = 0, limit: int = 100
    ) -> Page[CapabilityInfo]:
        """List the capabilities that sessions on this server can have."""
        params = [("search", search), ("offset", offset), ("limit", limit)]
        return await self.call("GET", "/v1/capabilities", Page[CapabilityInfo], params=params)
