"""Find the extra that installs a missing package.

`pip install perdure` installs only the client. The command and the server need extras.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "server": (
            "aiohttp", "bashkit", "cronsim", "cryptography", "genai_prices", "html_to_markdown", "httptools",
            "jsonschema_rs", "prometheus_client", "re2", "rich", "typer", "tzdata",
            "uvicorn", "uvloop", "yaml",
        ),
        "postgres": ("asyncpg", "pgqueuer"),
        "local-model": ("xllamacpp",),
        "otel": ("opentelemetry",),
        "documents": ("PIL", "pypdfium2_raw"),
    }
)  # fmt: skip
"""Extra -> the modules that its packages provide."""

MISSING = 2
"""The exit status of a command whose packages are not installed."""


def advice(error: ModuleNotFoundError) -> str | None:
    """Return what to install; None if the missing module belongs to no extra."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return f"this needs the package {module}, which is not installed: pip install 'perdure[{extra}]'"
    return None
