"""Settings: from the environment (`PERDURE_*`), overridden by the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo, fields

from perdure.domain.errors import InvalidInput
from perdure.domain.hosts import is_loopback

LARGEST_FILE = 64 * 1024 * 1024
"""Bytes; the most that `max_file_bytes` may allow: a file that is written is held in memory, several times
over."""


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_WORDS = {"log_level": ("debug", "info", "warning", "error")}
_BOUNDS = {"port": (0, 65_535), "max_file_bytes": (1, LARGEST_FILE)}
"""From where to where a number may be; others are 1 or more if they are whole, 0 or more if not."""


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Each field is also the environment variable PERDURE_<NAME>.

    Attributes:
        host: the address to listen on.
        port: the port to listen on; 0 picks a free one.
        data: the folder of the embedded database and the master key.
        database_url: a PostgreSQL URL; empty for the embedded SQLite.
        master_key: 32 bytes as base64 or hex, that wrap every secret; empty for a file in the data folder.
        master_key_previous: the master key before that one, accepted as well while keys are being rotated.
        drain_seconds: how long running turns may go on after a request to stop.
        stream_cycle_seconds: about how long a live stream lasts; its follower then connects again, perhaps
            elsewhere.
        heartbeat_seconds: how long a live stream is silent before it shows a sign of life.
        history_tokens: about how many tokens of history a model call is shown at most; less where its window
            is smaller.
        max_iterations: model calls in one turn, where no layer says otherwise.
        model_attempts: how often a model call is tried.
        client_tool_timeout_seconds: how long a caller may take to answer its tool calls.
        approval_timeout_seconds: how long a person may take to allow a tool call.
        private_addresses: whether tools (`web_fetch`, `bash`) may reach private networks and this machine:
            true or false.
        rate_limit: requests a second for each access token, on average; twice as many at once; 0 for no
            limit.
        max_file_bytes: how much one file may hold.
        max_session_file_bytes: how much all files of a session, or of a workspace, may hold together.
        log_level: how much is logged: debug, info, warning or error.
    """

    host: str = "127.0.0.1"
    port: int = 9000
    data: str = "./perdure-data"
    database_url: str = ""
    master_key: str = ""
    master_key_previous: str = ""
    drain_seconds: float = 10.0
    stream_cycle_seconds: float = 300.0
    heartbeat_seconds: float = 30.0
    history_tokens: int = 100_000
    max_iterations: int = 200
    model_attempts: int = 5
    client_tool_timeout_seconds: float = 300.0
    approval_timeout_seconds: float = 900.0
    private_addresses: bool = False
    rate_limit: float = 0.0
    max_file_bytes: int = 10_485_760
    max_session_file_bytes: int = 104_857_600
    log_level: str = "info"

    @property
    def data_folder(self) -> Path:
        return Path(self.data)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def load(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings of an environment; overrides that are None do not count.

    Raises:
        InvalidInput: names the variable that does not fit.
    """
    source = os.environ if environment is None else environment
    given: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        value = source.get(f"PERDURE_{name.upper()}")
        if value is not None and value != "":
            given[name] = value
    given |= {name: value for name, value in overrides.items() if value is not None}
    return Settings(
        **{
            each.name: _checked(each, str(given[each.name]))
            for each in fields(Settings)
            if each.name in given
        }
    )


def _checked(field: FieldInfo, text: str) -> Any:
    """The value of a setting. Raises InvalidInput."""
    try:
        value = msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError:
        raise _misfit(field, _KINDS[field.type], text) from None
    if field.name in _WORDS and value.lower() not in _WORDS[field.name]:
        raise _misfit(field, f"one of {', '.join(_WORDS[field.name])}", text)
    if not isinstance(value, bool | str):
        least, most = _BOUNDS.get(field.name, (0 if field.type is float else 1, math.inf))
        if not (least <= value <= most and math.isfinite(value)):
            wanted = f"{least} or more" if most == math.inf else f"between {least} and {most}"
            raise _misfit(field, wanted, text)
    return value


def _misfit(field: FieldInfo, wanted: str, text: str) -> InvalidInput:
    return InvalidInput(
        f"the setting PERDURE_{field.name.upper()} must be {wanted}, not {text[:40]!r}",
        code="invalid_setting",
    )
