"""What else belongs to a session: key-value pairs, secrets, schedules, SQL databases. And workspaces."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec

from msgspec import Struct

from perdure.client import routes
from perdure.client.routes import Caller, listed, path_of
from perdure.domain.databases import CreateDatabase, DatabaseInfo, DatabaseSchema
from perdure.domain.schedules import CreateSchedule, Schedule, UpdateSchedule
from perdure.domain.storage import KeyValue, SecretInfo, SecretsSet, SetSecrets
from perdure.domain.workspaces import CreateWorkspace, UpdateWorkspace, Workspace

P = ParamSpec("P")

_SECRETS = "/v1/sessions/{}/storage/secrets"
_SCHEDULES = "/v1/sessions/{}/schedules"
_SCHEDULE = f"{_SCHEDULES}/{{}}"
_DATABASES = "/v1/sessions/{}/databases"
_DATABASE = f"{_DATABASES}/{{}}"


class StorageMethods(Caller):
    """The client's methods about key-value pairs and secrets of sessions."""

    list_keys = routes.lists_under(
        "/v1/sessions/{}/storage/keys", KeyValue, "List a session's key-value pairs, sorted by key."
    )
    list_secrets = routes.lists_under(
        _SECRETS, SecretInfo, "List the names of a session's secrets. Their values are never returned."
    )

    async def set_secrets(self, session_id: str, secrets: Mapping[str, str]) -> int:
        """Set secrets of a session, and return how many. Those that `secrets` does not name stay."""
        done = await self.call(
            "PUT", path_of(_SECRETS, session_id), SecretsSet, body=SetSecrets(dict(secrets))
        )
        return done.count


def _updates_schedule(
    body: Callable[P, Struct],
) -> Callable[Concatenate[Caller, str, str, P], Coroutine[Any, Any, Schedule]]:
    async def call(
        self: Caller, session_id: str, schedule_id: str, /, *args: P.args, **kwargs: P.kwargs
    ) -> Schedule:
        path = path_of(_SCHEDULE, session_id, schedule_id)
        return await self.call("PATCH", path, Schedule, body=body(*args, **kwargs))

    call.__doc__ = (
        "Change, enable or disable a schedule.\n\n"
        "Takes the ids of the session and the schedule, then the fields of `UpdateSchedule` to change."
    )
    return call


class ScheduleMethods(Caller):
    """The client's methods about schedules of sessions."""

    create_schedule = routes.creates_under(
        _SCHEDULES, CreateSchedule, Schedule, "Send a message to a session at a set time, or repeatedly."
    )
    list_schedules = routes.lists_under(
        _SCHEDULES, Schedule, "List a session's schedules, including disabled and finished ones."
    )
    update_schedule = _updates_schedule(UpdateSchedule)

    async def get_schedule(self, session_id: str, schedule_id: str) -> Schedule:
        """Return a schedule, with the time of its next message."""
        return await self.call("GET", path_of(_SCHEDULE, session_id, schedule_id), Schedule)

    async def delete_schedule(self, session_id: str, schedule_id: str) -> None:
        """Delete a schedule. Messages that it has sent stay."""
        await self.transport.request("DELETE", path_of(_SCHEDULE, session_id, schedule_id))


class DatabaseMethods(Caller):
    """The client's methods about SQL databases of sessions."""

    create_database = routes.creates_under(
        _DATABASES, CreateDatabase, DatabaseInfo, "Create an empty SQL database of a session."
    )
    list_databases = routes.lists_under(_DATABASES, DatabaseInfo, "List a session's SQL databases.")

    async def get_database(self, session_id: str, name: str) -> DatabaseInfo:
        """Return the size of a SQL database."""
        return await self.call("GET", path_of(_DATABASE, session_id, name), DatabaseInfo)

    async def get_database_schema(self, session_id: str, name: str) -> DatabaseSchema:
        """Return the tables and views of a SQL database, with their columns."""
        return await self.call("GET", path_of(f"{_DATABASE}/schema", session_id, name), DatabaseSchema)

    async def delete_database(self, session_id: str, name: str) -> None:
        """Delete a SQL database with all its data."""
        await self.transport.request("DELETE", path_of(_DATABASE, session_id, name))


class WorkspaceMethods(Caller):
    """The client's methods about workspaces. The methods about files take their ids."""

    create_workspace = routes.creates(
        "/v1/workspaces", CreateWorkspace, Workspace, "Create a workspace, which several sessions can share."
    )
    get_workspace = routes.reads("/v1/workspaces/{}", Workspace, "Return a workspace.")
    update_workspace = routes.updates(
        "/v1/workspaces/{}", UpdateWorkspace, Workspace, "Change a workspace, or restore an archived one."
    )
    delete_workspace = routes.sends(
        "DELETE", "/v1/workspaces/{}", "Archive a workspace: its files stay readable."
    )

    async def list_workspaces(
        self, *, search: str | None = None, include_archived: bool | None = None
    ) -> tuple[Workspace, ...]:
        """List the workspaces that belong to no session, newest first."""
        params = [("search", search), ("include_archived", include_archived)]
        return await listed(self, "/v1/workspaces", Workspace, params)
