"""Routes of a session's schedules."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import schedules as use
from perdure.domain.ids import ScheduleId, SessionId
from perdure.domain.paging import Listing
from perdure.domain.schedules import CreateSchedule, Schedule, UpdateSchedule

_EXAMPLE = {
    "message": "Check the mailbox and summarise what is new.",
    "cron": "0 9 * * mon-fri",
    "timezone": "Europe/Paris",
}


@route("GET", "/v1/sessions/{session_id}/schedules", "session schedules", errors=(404,))
async def list_session_schedules(call: Call, session_id: SessionId) -> Listing[Schedule]:
    """List a session's schedules.

    Those that are off or over are among them.
    """
    return Listing(tuple(await use.all_schedules(call.app, call.caller, session_id)))


@route(
    "POST",
    "/v1/sessions/{session_id}/schedules",
    "session schedules",
    status=201,
    errors=(404,),
    body_example=_EXAMPLE,
)
async def create_session_schedule(call: Call, session_id: SessionId, body: CreateSchedule) -> Schedule:
    """Have a message sent to a session later, once or regularly.

    By a cron expression or once; at most 5 of a session's schedules can be on.
    """
    return await use.create_schedule(call.app, call.caller, session_id, body, call.once)


@route("GET", "/v1/sessions/{session_id}/schedules/{schedule_id}", "session schedules", errors=(404,))
async def get_session_schedule(call: Call, session_id: SessionId, schedule_id: ScheduleId) -> Schedule:
    """Get a schedule.

    With the time when it comes next.
    """
    return await use.read_schedule(call.app, call.caller, session_id, schedule_id)


@route(
    "PATCH",
    "/v1/sessions/{session_id}/schedules/{schedule_id}",
    "session schedules",
    errors=(404,),
    body_example={"enabled": False},
)
async def update_session_schedule(
    call: Call, session_id: SessionId, schedule_id: ScheduleId, body: UpdateSchedule
) -> Schedule:
    """Change a schedule, or turn it off and on.

    A field that is left out stays.
    """
    return await use.change_schedule(call.app, call.caller, session_id, schedule_id, body)


@route("DELETE", "/v1/sessions/{session_id}/schedules/{schedule_id}", "session schedules", errors=(404,))
async def delete_session_schedule(call: Call, session_id: SessionId, schedule_id: ScheduleId) -> None:
    """Delete a schedule.

    What it has sent stays.
    """
    await use.remove_schedule(call.app, call.caller, session_id, schedule_id)


ROUTES = (
    list_session_schedules,
    create_session_schedule,
    get_session_schedule,
    update_session_schedule,
    delete_session_schedule,
)
