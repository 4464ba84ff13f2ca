"""Words for the fields of what sessions hold beside their log: storage, schedules, databases.

See `fields`.
"""

from __future__ import annotations

SESSION_PARTS = {
    "from_sequence": "The last event that is copied; the whole log if left out.",
    "SessionStats.started": "How many have had no turn yet.",
    "SessionStats.active": "How many have a turn running.",
    "SessionStats.idle": "How many wait for a message.",
    "SessionStats.waiting_for_tool_results": "How many wait for a client.",
    "SessionStats.paused": "How many a budget has stopped.",
    "KeyValue.key": "The key.",
    "KeyValue.value": "The text under it.",
    "SecretInfo.name": "The secret's name.",
    "SetSecrets.secrets": "Values by name.",
    "SecretsSet.count": "How many were written.",
    "CreateSchedule.message": "What is said to the session when the time comes.",
    "UpdateSchedule.message": "What is said to the session when the time comes.",
    "Schedule.message": "What is said to the session when the time comes.",
    "CreateSchedule.name": "What people call it.",
    "UpdateSchedule.name": "What people call it.",
    "Schedule.name": "What people call it.",
    "Schedule.kind": "`cron` comes again and again, `once` at one time.",
    "cron": "When it comes: minute, hour, day, month, weekday. Not together with `at`.",
    "at": "When it comes, once. Not together with `cron`.",
    "timezone": "The time zone of `cron`: an IANA name.",
    "CreateSchedule.enabled": "Whether it is on.",
    "UpdateSchedule.enabled": "Whether it is on.",
    "Schedule.enabled": "Whether it is on.",
    "Schedule.fire_count": "How often it has come.",
    "Schedule.next_at": "When it comes next; missing when it is off or over.",
    "Schedule.last_fired_at": "When it last came.",
    "CreateDatabase.name": "The database's name.",
    "DatabaseInfo.name": "The database's name.",
    "DatabaseInfo.size_bytes": "How large it is.",
    "DatabaseInfo.page_count": "The same in SQLite's pages.",
    "DatabaseSchema.database": "The database.",
    "DatabaseSchema.tables": "Its tables and views, each with its columns.",
}
