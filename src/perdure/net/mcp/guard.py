"""Ends local commands whose server was killed: a command that ignores the end of its input would go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.subprocess import DEVNULL, PIPE, Process

log = logging.getLogger(__name__)

_SHELL = "/bin/sh"
_SCRIPT = """
groups=
while read -r what group; do
  if [ "$what" = + ]; then
    groups="$groups $group"
  else
    kept=
    for each in $groups; do
      [ "$each" = "$group" ] || kept="$kept $each"
    done
    groups=$kept
  fi
done
[ -n "$groups" ] || exit 0
sleep 1
for each in $groups; do kill -s TERM -- "-$each"; done
sleep 1
for each in $groups; do kill -s KILL -- "-$each"; done
"""
_ENDED = 1.0


class Guard:
    """A small process that outlives this one, and then kills the process groups that are left.

    It starts with the first command. Without a shell there is none.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._groups: set[int] = set()

    async def watch(self, group: int) -> None:
        """Kill this process group if this process ends before `release`."""
        self._groups.add(group)
        async with self._lock:
            if self._process is not None and self._process.returncode is None:
                self._tell(f"+ {group}")
                return
            try:
                self._process = await asyncio.create_subprocess_exec(
                    _SHELL,
                    *("-c", _SCRIPT),
                    stdin=PIPE,
                    stdout=DEVNULL,
                    stderr=DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                log.warning("local MCP commands may outlive a killed server: %s: %s", _SHELL, error.strerror)
                return
            for each in self._groups:
                self._tell(f"+ {each}")

    def release(self, group: int) -> None:
        """Note that a process group has ended."""
        self._groups.discard(group)
        self._tell(f"- {group}")

    def _tell(self, line: str) -> None:
        stdin = None if self._process is None else self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(f"{line}\n".encode())

    async def close(self) -> None:
        """End the guard; it kills the groups that were not released."""
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDED):
                await process.wait()
