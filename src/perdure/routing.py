"""All routes of the server, put together from the files that have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from perdure import __version__
from perdure.api.kernel.route import Route
from perdure.api.routes import accounts as account_routes
from perdure.api.routes import agent_versions as agent_version_routes
from perdure.api.routes import agents as agent_routes
from perdure.api.routes import audits as audit_routes
from perdure.api.routes import budgets as budget_routes
from perdure.api.routes import callbacks as callback_routes
from perdure.api.routes import capabilities as capability_routes
from perdure.api.routes import commands as command_routes
from perdure.api.routes import connections as connection_routes
from perdure.api.routes import databases as database_routes
from perdure.api.routes import durable as durable_routes
from perdure.api.routes import erasures as erasure_routes
from perdure.api.routes import feedback as feedback_routes
from perdure.api.routes import harnesses as harness_routes
from perdure.api.routes import history as history_routes
from perdure.api.routes import images as image_routes
from perdure.api.routes import inbox as inbox_routes
from perdure.api.routes import inbox_links as inbox_link_routes
from perdure.api.routes import input_requests as input_request_routes
from perdure.api.routes import invitations as invitation_routes
from perdure.api.routes import limits as limit_routes
from perdure.api.routes import mcp_servers as mcp_routes
from perdure.api.routes import mcp_tools as mcp_tool_routes
from perdure.api.routes import memories as memory_routes
from perdure.api.routes import memory_files as memory_file_routes
from perdure.api.routes import memory_versions as memory_version_routes
from perdure.api.routes import messages as message_routes
from perdure.api.routes import participants as participant_routes
from perdure.api.routes import providers as provider_routes
from perdure.api.routes import retention as retention_routes
from perdure.api.routes import runs as run_routes
from perdure.api.routes import schedules as schedule_routes
from perdure.api.routes import sessions as session_routes
from perdure.api.routes import sign_ins as sign_in_routes
from perdure.api.routes import skills as skill_routes
from perdure.api.routes import spend as spend_routes
from perdure.api.routes import storage as storage_routes
from perdure.api.routes import tasks as task_routes
from perdure.api.routes import webhooks as webhook_routes
from perdure.api.routes import workflows as workflow_routes
from perdure.api.routes import workspaces as workspace_routes
from perdure.api.routes.files import file_routes
from perdure.api.routes.system import document_routes, system_routes
from perdure.domain.messages import JsonObject
from perdure.doors.mcp.route import mcp_route
from perdure.settings import Settings


class ThisProcess(Struct, frozen=True):
    """What routes tell of the process.

    Attributes:
        closing: set when the server shuts down, so that live streams end.
        running: returns the number of sessions that this process is working on.
        draining: returns whether the process was asked to stop.
    """

    closing: asyncio.Event = field(default_factory=asyncio.Event)
    running: Callable[[], int] = lambda: 0
    draining: Callable[[], bool] = lambda: False


def health_routes(settings: Settings, process: ThisProcess) -> tuple[Route, ...]:
    """Return the routes that every process has, whatever its role."""
    folder = None if settings.database_url else settings.data_folder
    return system_routes(process.running, process.draining, folder)


def all_routes(settings: Settings, process: ThisProcess) -> tuple[Route, ...]:
    """Return all routes of the server."""
    stream = message_routes.StreamSettings(
        process.closing, settings.stream_cycle_seconds, settings.heartbeat_seconds
    )
    cached: JsonObject = {}

    def document() -> JsonObject:
        if not cached:
            from perdure.api.openapi.document import build_document  # few servers are asked for it

            cached.update(build_document(routes, __version__))
        return cached

    routes: tuple[Route, ...] = (
        *session_routes.ROUTES,
        *message_routes.ROUTES,
        *run_routes.ROUTES,
        *callback_routes.ROUTES,
        *connection_routes.ROUTES,
        *input_request_routes.ROUTES,
        *feedback_routes.ROUTES,
        *participant_routes.ROUTES,
        *inbox_routes.ROUTES,
        inbox_routes.inbox_stream_route(stream),
        *inbox_link_routes.ROUTES,
        *sign_in_routes.ROUTES,
        message_routes.stream_route(stream),
        *agent_routes.ROUTES,
        *agent_version_routes.ROUTES,
        *harness_routes.ROUTES,
        *capability_routes.ROUTES,
        *account_routes.ROUTES,
        *(*limit_routes.ROUTES, *retention_routes.ROUTES, *erasure_routes.ROUTES),
        *invitation_routes.ROUTES,
        *command_routes.ROUTES,
        *task_routes.ROUTES,
        *storage_routes.ROUTES,
        *schedule_routes.ROUTES,
        *database_routes.ROUTES,
        *workspace_routes.ROUTES,
        *file_routes(settings.max_file_bytes, settings.max_upload_bytes),
        *image_routes.ROUTES,
        *memory_routes.ROUTES,
        *memory_file_routes.ROUTES,
        *memory_version_routes.ROUTES,
        *provider_routes.ROUTES,
        *mcp_routes.ROUTES,
        *mcp_tool_routes.ROUTES,
        *skill_routes.ROUTES,
        *webhook_routes.ROUTES,
        *budget_routes.ROUTES,
        *spend_routes.ROUTES,
        *durable_routes.ROUTES,
        *workflow_routes.ROUTES,
        *(*audit_routes.ROUTES, *history_routes.ROUTES),
        *health_routes(settings, process),
        *document_routes(document),
    )
    return routes


def door_routes(closing: asyncio.Event) -> tuple[Route, ...]:
    """Return the routes of other protocols, which the OpenAPI document does not describe.

    Args:
        closing: set when the server shuts down.
    """
    return (mcp_route(closing),)
