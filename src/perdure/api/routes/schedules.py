"""Routes of a session's schedules."""

from __future__ import annotations

from perdure.api.kernel.http import Call, Route
from perdure.app import schedules as use
from perdure.domain.ids import Prefix
from perdure.domain.paging import Listing
from perdure.domain.schedules import CreateSchedule, Schedule, UpdateSchedule

_ALL = "/v1/sessions/{session_id}/schedules"
_ONE = _ALL + "/{schedule_id}"
SESSION: dict[str, Prefix] = {"session_id": "session"}
BOTH: dict[str, Prefix] = {"session_id": "session", "schedule_id": "sched"}


async def list_session_schedules(call: Call) -> Listing[Schedule]:
    return Listing(tuple(await use.all_schedules(call.app, call.caller, call.params["session_id"])))


async def create_session_schedule(call: Call) -> Schedule:
    return await use.create_schedule(call.app, call.caller, call.params["session_id"], call.body)


async def get_session_schedule(call: Call) -> Schedule:
    return await use.read_schedule(
        call.app, call.caller, call.params["session_id"], call.params["schedule_id"]
    )


async def update_session_schedule(call: Call) -> Schedule:
    return await use.change_schedule(
        call.app, call.caller, call.params["session_id"], call.params["schedule_id"], call.body
    )


async def delete_session_schedule(call: Call) -> None:
    await use.remove_schedule(call.app, call.caller, call.params["session_id"], call.params["schedule_id"])


_EXAMPLE = {
    "message": "Check the mailbox and summarise what is new.",
    "cron": "0 9 * * mon-fri",
    "timezone": "Europe/Paris",
}

ROUTES = (
    Route("GET", _ALL, "list_session_schedules", "List a session's schedules", "session schedules", list_session_schedules,
          ids=SESSION, returns=Listing[Schedule], errors=(404,)),
    Route("POST", _ALL, "create_session_schedule", "Have a message sent to a session later, once or regularly", "session schedules",
          create_session_schedule, ids=SESSION, body=CreateSchedule, body_example=_EXAMPLE, returns=Schedule, status=201,
          errors=(404,)),
    Route("GET", _ONE, "get_session_schedule", "Get a schedule", "session schedules", get_session_schedule, ids=BOTH,
          returns=Schedule, errors=(404,)),
    Route("PATCH", _ONE, "update_session_schedule", "Change a schedule, or turn it off and on", "session schedules",
          update_session_schedule, ids=BOTH, body=UpdateSchedule, body_example={"enabled": False}, returns=Schedule, errors=(404,)),
    Route("DELETE", _ONE, "delete_session_schedule", "Delete a schedule", "session schedules", delete_session_schedule, ids=BOTH,
          status=204, errors=(404,)),
)  # fmt: skip
