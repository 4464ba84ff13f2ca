"""The columns of an agent or a harness that get the values of a revision."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject
from perdure.domain.times import Micros
from perdure.store.agents import AgentRow
from perdure.store.database import Changes
from perdure.store.harnesses import HarnessRow
from perdure.store.rows import from_json, to_json


class Restored(Struct, frozen=True):
    """What is restored.

    Attributes:
        content: the fields of the revision.
        names: the only fields that are restored; None for all.
    """

    content: JsonObject
    names: Collection[str] | None


def restored_columns(
    row: AgentRow | HarnessRow,
    restored: Restored,
    plain: Collection[str],
    config: type[Struct],
    now: Micros,
) -> Changes:
    """Return the columns that change.

    Args:
        plain: the columns that are fields as they are.
        config: the type of the column `config`, whose members are fields.

    Raises:
        InvalidInput: there is no field of this name that can be restored.
        Damaged: the configuration of the revision cannot be read.
    """
    members, content = config.__struct_fields__, restored.content
    known = {*plain, "tags", "status", *members}
    chosen = known if restored.names is None else set(restored.names)
    if unknown := chosen - known:
        raise InvalidInput(
            f"`fields`: {min(unknown)!r} cannot be restored; choose from {', '.join(sorted(known))}",
            field="fields",
        )
    values: Changes = {name: content.get(name) for name in plain if name in chosen}
    if "tags" in chosen:
        values["tags"] = to_json(content.get("tags", ()))
    parts = msgspec.json.decode(row.config, type=JsonObject)
    kept = {name: value for name, value in parts.items() if name not in chosen}
    kept |= {name: content[name] for name in members if name in chosen and name in content}
    what = f"the revision of {row.id}"
    values["config"] = to_json(from_json(msgspec.json.Decoder(config), to_json(kept), what))
    if "status" in chosen and content.get("status") != row.status:
        active = content.get("status") == "active"
        values |= {
            "status": "active" if active else "archived",
            "archived_at": None if active else row.archived_at or now,
        }
    return {name: value for name, value in values.items() if getattr(row, name) != value}
