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

    Includes disabled and finished schedules.
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
    """Schedule messages to a session.

    The message is sent once at a given time, or repeatedly by a cron expression. It begins a turn of its own:
    if a turn runs, or waits for a client or an approval, the schedule waits for its end. If it was due
    several times meanwhile, it sends one message. A session can have 100 schedules, of which 5 can be active.
    """
    return await use.create_schedule(call.app, call.caller, session_id, body, call.once)


@route("GET", "/v1/sessions/{session_id}/schedules/{schedule_id}", "session schedules", errors=(404,))
async def get_session_schedule(call: Call, session_id: SessionId, schedule_id: ScheduleId) -> Schedule:
    """Get a schedule.

    Includes the time of its next run.
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
    """Update, enable or disable a schedule.

    Omitted fields keep their values.
    """
    return await use.change_schedule(call.app, call.caller, session_id, schedule_id, body)


@route("DELETE", "/v1/sessions/{session_id}/schedules/{schedule_id}", "session schedules", errors=(404,))
async def delete_session_schedule(call: Call, session_id: SessionId, schedule_id: ScheduleId) -> None:
    """Delete a schedule.

    Messages that it has already sent stay in the session.
    """
    await use.remove_schedule(call.app, call.caller, session_id, schedule_id)


ROUTES = (
    list_session_schedules,
    create_session_schedule,
    get_session_schedule,
    update_session_schedule,
    delete_session_schedule,
)
