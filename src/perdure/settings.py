"""Read settings from the environment (`PERDURE_*`), overridden by the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo, fields

from perdure.domain.docstrings import read_docstring
from perdure.domain.errors import InvalidInput
from perdure.domain.hosts import is_loopback
from perdure.domain.limits import LimitsPair, LimitValues
from perdure.domain.network import PrivateAddresses, read_private
from perdure.domain.retention import RetentionDays, read_days

LARGEST_FILE = 64 * 1024 * 1024
"""The largest allowed `max_file_bytes`: writing a file holds several copies of it in memory."""


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_PRIVATE = "true, false, or networks such as 10.0.0.0/8, separated by commas"
_CHOICES = {"log_level": ("debug", "info", "warning", "error"), "log_format": ("text", "json")}
_BOUNDS = {
    "port": (0, 65_535),
    "metrics_port": (0, 65_535),
    "max_file_bytes": (1, LARGEST_FILE),
    "code_seconds": (1, 3600),
    "code_memory_bytes": (64 << 20, 1 << 40),
    "code_output_bytes": (1, 4 << 20),
    "max_active_turns": (0, math.inf),
    "max_open_sessions": (0, math.inf),
    "requests_per_minute": (0, math.inf),
    "tokens_per_minute": (0, math.inf),
}
"""Minimum and maximum; other whole numbers must be 1 or more, other numbers 0 or more."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings. Each field is also the environment variable PERDURE_<NAME>.

    Attributes:
        host: the address to listen on.
        port: the port to listen on; 0 picks a free one.
        public_url: the URL under which others reach the server, for callbacks: scheme, host, port and perhaps
            a path; if empty, the address that it listens on.
        data: the folder of the embedded database and the master key.
        database_url: a PostgreSQL URL; if empty, the server uses the embedded SQLite.
        database_direct_url: the URL of the same database without a pooler, if `database_url` leads through
            one that lends connections for single transactions, such as PgBouncer.
        master_key: the key that encrypts the data keys: 32 bytes as base64 or hex; if empty, the server uses
            a key file in the data folder.
        master_key_previous: the previous master key, accepted during a key rotation.
        tools: Python files with tools, separated by colons. The server executes them when it starts.
        drain_seconds: how long running turns may continue after a request to stop, in seconds.
        drain_delay_seconds: how long a process that was asked to stop still serves all requests, while
            `/health/ready` tells load balancers to send them elsewhere, in seconds.
        stream_cycle_seconds: approximate duration of a live stream, in seconds; its follower then reconnects,
            perhaps to another server.
        heartbeat_seconds: how long a live stream may be silent before it sends a heartbeat, in seconds.
        history_tokens: approximate maximum number of history tokens in a model call; lower for a model with a
            smaller context window.
        max_iterations: maximum number of model calls per turn, unless a harness, agent or session sets its
            own.
        model_attempts: maximum number of attempts per model call.
        model_timeout_seconds: how long a model may be silent before its first byte and between bytes, in
            seconds; 0: 600, or 1800 for servers on this machine and in private networks.
        client_tool_timeout_seconds: how long a client may take to submit tool results, in seconds.
        approval_timeout_seconds: how long a user may take to approve or reject a tool call, in seconds.
        private_addresses: whether tools (`web_fetch`, `bash`), MCP servers and webhooks may be in private
            networks and on this machine: true, false, or the networks and addresses that may be reached,
            separated by commas, such as `10.0.0.0/8,192.168.1.5`.
        mcp_servers: a JSON file with MCP servers for every organization: commands that the server runs, and
            URLs, which may be in private networks.
        debuggable: true or false: whether debuggers and core dumps may read the server's memory. Otherwise
            no other process of the same user may read its memory and environment.
        rate_limit: average requests per second for each access token, with bursts of twice as many; 0 for no
            limit.
        max_connections: maximum number of open client connections; lower if the system's limit of open files
            leaves less. Over it, only `/health` is answered.
        request_timeout_seconds: how long a connection may take to send a request's headers, in seconds.
        write_timeout_seconds: how long a client may read nothing of what is sent to it, in seconds.
        keep_alive_seconds: how long a connection may be idle between two requests, in seconds.
        max_file_bytes: maximum size of one file in bytes, if it is sent as JSON or a tool reads or writes it.
        max_upload_bytes: maximum size of one file in bytes, if it is uploaded as it is.
        max_session_file_bytes: maximum total size of the files of a session or a workspace in bytes. The
            files of a session's messages, which the conversation keeps, may have as many once more.
        code_interpreter: where the tool `run_python` runs code: `off`, `bubblewrap`, `docker`, or the URL of
            an HTTP service that runs it.
        code_token: a bearer token for that service; empty for none.
        code_python: the Python interpreter for `bubblewrap`; if empty, the server's own or the system's.
        code_image: the image for `docker`; it has `python3`.
        code_network: the Docker network that code may use; `none` for no network.
        code_seconds: how long code may run at most, in seconds.
        code_memory_bytes: maximum memory of one run in bytes, without its files.
        code_processes: maximum number of processes and threads of one run.
        code_output_bytes: maximum output of one run in bytes; the rest is discarded.
        max_turns: maximum number of turns that a process runs at a time; others wait, and organizations take
            turns.
        max_active_turns: maximum number of turns that an organization runs at a time; others wait; 0 for no
            limit. Organizations can set lower limits, and limits of their users.
        max_open_sessions: maximum number of an organization's sessions that are not archived; 0 for no limit.
        requests_per_minute: maximum number of requests of an organization in a minute; 0 for no limit.
        tokens_per_minute: about how many input and output tokens an organization's model calls may use in a
            minute; turns wait then; 0 for no limit.
        retention: how many days organizations keep what they have, unless they have set it: kinds and days
            such as `idle_sessions=365,model_calls=730`; what is not named is kept for ever.
        log_level: the lowest level to log: debug, info, warning or error.
        log_format: the format of the log on standard error: `text` for people, or `json`, one object a line.
        metrics_port: a port that serves only `/metrics`, without a login; 0 for none.
        metrics_host: the address to listen on for that port.
    """

    host: str = "127.0.0.1"
    port: int = 9000
    public_url: str = ""
    data: str = "./perdure-data"
    database_url: str = ""
    database_direct_url: str = ""
    master_key: str = ""
    master_key_previous: str = ""
    tools: str = ""
    drain_seconds: float = 10.0
    drain_delay_seconds: float = 0.0
    stream_cycle_seconds: float = 300.0
    heartbeat_seconds: float = 30.0
    history_tokens: int = 100_000
    max_iterations: int = 200
    model_attempts: int = 5
    model_timeout_seconds: float = 0.0
    client_tool_timeout_seconds: float = 300.0
    approval_timeout_seconds: float = 900.0
    private_addresses: PrivateAddresses = False
    mcp_servers: str = ""
    debuggable: bool = False
    rate_limit: float = 0.0
    max_connections: int = 20_000
    request_timeout_seconds: float = 20.0
    write_timeout_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    max_file_bytes: int = 10_485_760
    max_upload_bytes: int = 104_857_600
    max_session_file_bytes: int = 1_073_741_824
    code_interpreter: str = "off"
    code_token: str = ""
    code_python: str = ""
    code_image: str = "python:3.13-slim"
    code_network: str = "none"
    code_seconds: int = 120
    code_memory_bytes: int = 536_870_912
    code_processes: int = 32
    code_output_bytes: int = 262_144
    max_turns: int = 1_000
    max_active_turns: int = 1_000
    max_open_sessions: int = 10_000
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    retention: RetentionDays = RetentionDays()
    log_level: str = "info"
    log_format: str = "text"
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"

    @property
    def data_folder(self) -> Path:
        return Path(self.data)

    @property
    def tool_files(self) -> tuple[Path, ...]:
        return tuple(Path(path) for path in self.tools.split(":") if path)

    def limits(self) -> LimitsPair:
        """The limits that no organization's own are above."""
        return LimitsPair(
            LimitValues(
                self.max_active_turns or None,
                self.max_open_sessions or None,
                self.requests_per_minute or None,
                self.tokens_per_minute or None,
            )
        )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


class Description(Struct, frozen=True):
    """A setting as users read it: its environment variable, its default (empty for none) and its meaning."""

    variable: str
    default: str
    meaning: str


def described() -> tuple[Description, ...]:
    """Describe all settings, as their docstring does."""
    words, defaults = read_docstring(Settings.__doc__ or "").texts(), Settings()
    return tuple(
        Description(
            f"PERDURE_{name.upper()}",
            plain(getattr(defaults, name)),
            f"{words[name][0].upper()}{words[name][1:]}",
        )
        for name in Settings.__struct_fields__
    )


def plain(value: object) -> str:
    """A default as users write it: JSON, with bare strings and whole numbers."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, RetentionDays):
        return ",".join(f"{kind}={days}" for kind, days in value.limited().items())
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def load(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from an environment.

    Args:
        environment: the variables; by default those of this process.
        overrides: values that take precedence, by field; None is ignored.

    Raises:
        InvalidInput: a value is invalid; the message names its variable.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        value = source.get(f"PERDURE_{name.upper()}")
        if value is not None and value != "":
            values[name] = value
    values |= {name: value for name, value in overrides.items() if value is not None}
    return Settings(
        **{
            field.name: _checked(field, str(values[field.name]))
            for field in fields(Settings)
            if field.name in values
        }
    )


def _checked(field: FieldInfo, text: str) -> Any:
    """Parse and validate the value of a setting. Raises InvalidInput."""
    if field.name == "private_addresses":
        try:
            return read_private(text)
        except ValueError as error:
            raise _invalid(field, _PRIVATE, str(error)) from None
    if field.name == "retention":
        try:
            return read_days(text)
        except InvalidInput as error:
            raise InvalidInput(
                f"the setting PERDURE_RETENTION is wrong: {error.message}", code="invalid_setting"
            ) from None
    try:
        value = msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError:
        raise _invalid(field, _KINDS[field.type], text) from None
    if field.name == "public_url":
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise _invalid(field, "a URL such as https://perdure.example.com", text)
        return value.rstrip("/")
    if field.name in _CHOICES and value.lower() not in _CHOICES[field.name]:
        raise _invalid(field, f"one of {', '.join(_CHOICES[field.name])}", text)
    if not isinstance(value, bool | str):
        least, most = _BOUNDS.get(field.name, (0 if field.type is float else 1, math.inf))
        if not (least <= value <= most and math.isfinite(value)):
            expected = f"{least} or more" if most == math.inf else f"between {least} and {most}"
            raise _invalid(field, expected, text)
    return value


def _invalid(field: FieldInfo, expected: str, text: str) -> InvalidInput:
    return InvalidInput(
        f"the setting PERDURE_{field.name.upper()} must be {expected}, not {text[:40]!r}",
        code="invalid_setting",
    )
