"""Guardrails of results that come from outside of a turn: from clients, callbacks and tasks.

They are checked before the transaction that stores them, because services may be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.storage import redactor_of
from perdure.app.task_answers import SPAWN
from perdure.app.task_reports import Report
from perdure.capabilities.guard_services import Asker
from perdure.capabilities.guarding import About, Guard, Verdict, guardrails_of, withheld
from perdure.capabilities.layers import read_layers
from perdure.capabilities.model_choice import find_model
from perdure.domain.events import EventContext, NewEvent
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import ImagePart, TextPart
from perdure.domain.redaction import redact_struct
from perdure.domain.tasks import TaskText, text_of_message
from perdure.domain.times import Micros
from perdure.domain.tool_content import content_of_result
from perdure.domain.tools import ToolCallResult
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow
from perdure.store.tasks import TaskRow

Found = tuple[Verdict, ToolCallId, str]


class Checked(Struct, frozen=True):
    """Results as they may be stored, and what was found in them."""

    results: tuple[ToolCallResult, ...]
    found: tuple[Found, ...] = ()

    def events(self, context: EventContext, now: Micros) -> list[NewEvent]:
        """The events of what was found: before those of the results."""
        return [
            event
            for verdict, call_id, name in self.found
            for event in verdict.events("result", context, now, About(context.turn_id, None, call_id, name))
        ]


async def session_guard(app: Services, tx: Tx, row: SessionRow) -> Guard | None:
    """The guardrails of a session's tools' output; None without any. Raises InvalidInput, NotFound."""
    layers = await read_layers(tx, row)
    rules = guardrails_of(layers)
    if rules is None or not rules.has("tool_output"):
        return None
    own = partial(find_model, org_id=row.org_id, layers=layers)
    asker = Asker(own, row.agent_id)  # nobody pays: it happens outside of a run
    return Guard(rules, app.guard, row.org_id, asker, await redactor_of(app, tx, row))


async def checked_results(
    guard: Guard | None, results: Sequence[ToolCallResult], names: Mapping[str, str]
) -> Checked:
    """Check results of calls.

    Args:
        names: the tools of the calls, by the calls' ids.
    """
    if guard is None:
        return Checked(tuple(results))
    checked: list[ToolCallResult] = []
    found: list[Found] = []
    for result in results:
        name = names.get(result.tool_call_id, "")
        verdict, clean = await _checked(guard, result, name)
        checked.append(clean)
        found.append((verdict, ToolCallId(result.tool_call_id), name))
    return Checked(tuple(checked), tuple(found))


async def _checked(guard: Guard, result: ToolCallResult, name: str) -> tuple[Verdict, ToolCallResult]:
    if result.error is not None:
        verdict = await guard.text("tool_output", result.error, name)
        return verdict, replace(result, result=None, error=str(_value_of(verdict)))
    parts = content_of_result(result.result)
    if parts is None:
        verdict = await guard.value("tool_output", result.result, name)
        return verdict, replace(result, result=_value_of(verdict)) if verdict.changed else result
    return await _checked_content(guard, result, parts, name)


async def _checked_content(
    guard: Guard, result: ToolCallResult, parts: tuple[TextPart | ImagePart, ...], name: str
) -> tuple[Verdict, ToolCallResult]:
    """Check the texts of a result with images, as one text: the model reads them so."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    verdict = await guard.text("tool_output", "\n".join(texts), name)
    if not verdict.changed:
        return verdict, result
    if verdict.blocked is not None:
        return verdict, replace(result, result=withheld(verdict.blocked))
    images = [part for part in parts if isinstance(part, ImagePart)]
    shown = [
        {"type": "text", "text": verdict.value},
        *({"type": "image", **_fields(each)} for each in images),
    ]
    return verdict, replace(result, result=shown)


def _words_of(report: Report) -> str:
    """What a sub-agent has said beside its answer."""
    said = [text_of_message(message) for message in report.messages]
    for artifact in report.artifacts:
        said += [artifact.name, artifact.type, artifact.path or "", artifact.url or ""]
    if report.progress is not None:
        said += [report.progress.label or "", report.progress.unit or ""]
    if report.error is not None:
        said.append(report.error.message)
    return "\n".join(filter(None, said))


def _without_words(report: Report, mark: str) -> Report:
    progress, error = report.progress, report.error
    return replace(
        report,
        messages=tuple(replace(message, content=(TaskText(mark),)) for message in report.messages),
        artifacts=(),
        progress=None if progress is None else replace(progress, label=mark, unit=None),
        error=None if error is None else replace(error, message=mark),
    )


def _fields(image: ImagePart) -> dict[str, str]:
    fields = {"url": image.url, "base64": image.base64, "media_type": image.media_type}
    return {name: value for name, value in fields.items() if value is not None}


def _value_of(verdict: Verdict) -> object:
    return verdict.value if verdict.blocked is None else withheld(verdict.blocked)


async def checked_report(guard: Guard | None, task: TaskRow, report: Report) -> Report:
    """Check what a sub-agent says.

    What a tool in the background says was checked where it ran.
    """
    if guard is None or task.child_session_id is None:
        return report
    name = SPAWN
    rest = replace(report, answer="", output=None, found=())
    clean, masker = await guard.masked("tool_output", name, lambda masker: redact_struct(rest, masker))
    answer = await guard.text("tool_output", report.answer, name)
    output = await guard.value("tool_output", report.output, name) if report.output is not None else None
    judged = await guard.judged("tool_output", _words_of(clean))
    if judged.changed:
        clean = _without_words(clean, str(_value_of(judged)))
    verdicts = [answer, masker.verdict(), judged, *([] if output is None else [output])]
    about = About(tool_name=name)
    found = [event.data for each in verdicts for event in each.events("result", EventContext(), 0, about)]
    changed = answer.changed or (output is not None and output.changed)
    if not found:
        return report
    if output is not None and output.blocked is not None:
        answer, output = output, None
    return replace(
        clean,
        answer=str(_value_of(answer)),
        output=None if output is None or answer.blocked is not None else output.value,
        found=(*report.found, *found),
        withheld=changed,
    )
