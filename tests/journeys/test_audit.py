"""The audit log: every change leaves one entry, whose secrets nobody can read and which nobody can change."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api.kernel.audits import OPERATIONS
from perdure.routing import ThisProcess, all_routes, door_routes
from perdure.settings import Settings
from perdure.store.audit_tables import Audited
from tests.browser import Browser
from tests.journeys import audit_walk
from tests.journeys.audit_walk import SECRET, Walk
from tests.journeys.keyed import person, with_login
from tests.journeys.people import get
from tests.journeys.whole_api import Place
from tests.oauth_server import oauth_server
from tests.server import Server


@pytest.fixture
def environment() -> dict[str, str]:
    return {"PERDURE_PRIVATE_ADDRESSES": "true"}


def test_every_operation_that_changes_something_has_a_line_in_the_table() -> None:
    routes = (*all_routes(Settings(), ThisProcess()), *door_routes(asyncio.Event()))
    names = {each.operation_id for each in routes}
    changing = {each.operation_id for each in routes if each.method != "GET"}
    assert changing - OPERATIONS.keys() == set(), "say in api/kernel/audits.py what they leave"
    assert OPERATIONS.keys() - names == set()
    assert {name for name, what in OPERATIONS.items() if isinstance(what, str) and len(what) < 20} == set()


async def test_every_audited_operation_leaves_exactly_one_entry(any_server: Server) -> None:
    token = await with_login(any_server)
    async with (
        person(any_server, token) as http,
        oauth_server() as crm,
        Browser() as browser,
    ):
        org = (await get(http, "/v1/orgs"))["data"][0]["id"]
        http.headers["x-org-id"] = org
        place = Place(http)
        await place.fill()
        walk = Walk(http, org)
        await audit_walk.walk_sessions(walk)
        await audit_walk.walk_agents(walk)
        await audit_walk.walk_people(walk, "Ada")
        await audit_walk.walk_models(walk)
        await audit_walk.walk_files(walk)
        await audit_walk.walk_skills(walk)
        task = f"/v1/sessions/{place.values['session_id']}/tasks/{place.values['task_id']}"
        await audit_walk.walk_hooks(walk, task, place.values["item_id"])
        await audit_walk.walk_mcp(walk, crm, browser)
        exported = await http.get(f"/v1/orgs/{org}/audit-logs", params={"format": "ndjson"})
        await audit_walk.walk_out(walk, any_server, token)
    audited = {name for name, what in OPERATIONS.items() if isinstance(what, Audited)}
    elsewhere = {"retry_dead_letter"}  # test_workflows
    assert audited - walk.done == elsewhere
    assert SECRET not in exported.text
