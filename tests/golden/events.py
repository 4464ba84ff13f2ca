"""Golden logs: the events of turns, with ids and times replaced because they differ from run to run.

`PERDURE_WRITE_GOLDEN=1` rewrites the files. Review the difference before you commit it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

_ID = re.compile(r"(llmsim|call|[a-z]+)_[0-9a-f]{24,32}|[0-9a-f]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class _Normalizer:
    """Replaces ids by names in order of appearance, so that equal ids get equal names."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self(each, key) for each in value]
        if isinstance(value, str):
            return (
                "<time>"
                if _TIME.fullmatch(value)
                else _ID.sub(lambda match: self._name(match[0], match[1]), value)
            )
        return "<ms>" if key.endswith("_ms") and key != "timeout_ms" else value

    def _name(self, identifier: str, prefix: str | None) -> str:
        kind = prefix or "span"
        if identifier not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[identifier] = f"<{kind} {self._counts[kind]}>"
        return self._names[identifier]


def check_events(name: str, events: list[Any]) -> None:
    """Compare a log with the golden one of this name."""
    path = HERE / f"events_{name}.json"
    actual = _Normalizer()(events)
    if os.environ.get("PERDURE_WRITE_GOLDEN") == "1":
        path.write_text(json.dumps(actual, indent=2, ensure_ascii=False) + "\n")
    assert actual == json.loads(path.read_text())
