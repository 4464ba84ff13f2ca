"""The core areas of the wire contract, and the operations of each area."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.contract.extract import CONTRACT

SESSION = "/v1/sessions/{session_id}"

AREAS = (
    ("messages", r"/v1/sessions/{session_id}/(messages|tool-results)"),
    ("events", r"/v1/sessions/{session_id}/(events|events/summary|sse)"),
    ("session-storage", r"/v1/sessions/{session_id}/storage/.*"),
    ("session-databases", r"/v1/sessions/{session_id}/databases.*"),
    ("file system", r"/v1/(workspaces|sessions/{session_id}/fs).*"),
    ("sessions", r"/v1/sessions.*"),
    ("agents", r"/v1/agents.*"),
    ("harnesses", r"/v1/harness.*"),
    ("capabilities", r"/v1/capabilities.*"),
    ("models", r"/v1/(models|providers/{provider_id}/models).*"),
    ("providers", r"/v1/providers.*"),
    ("memory", r"/v1/memories.*"),
    ("organizations", r"/v1/(orgs|resolve-org).*"),
    ("users", r"/v1/users.*"),
    ("images", r"/v1/images.*"),
)


def area_of(path: str) -> str:
    return next(name for name, pattern in AREAS if re.fullmatch(pattern, path))


def contract() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CONTRACT.read_text())
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """The area, method, path and operation of each operation in the document.

    The file operations of workspaces are repeated under the paths of sessions.
    """
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield area_of(path), method, path, operation
            if path.startswith("/v1/workspaces/{workspace_id}/fs"):
                twin = path.replace("/v1/workspaces/{workspace_id}", SESSION)
                yield area_of(twin), method, twin, _of_a_session(operation)


def _of_a_session(operation: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {**each, "name": "session_id"} if each["name"] == "workspace_id" else each
        for each in operation.get("parameters", ())
    ]
    # Operation ids are unique, so the contract has none for the session's operation.
    return {**operation, "operationId": None, "parameters": parameters}
