"""A session in the test's own process, whose use cases a test calls as routes and tools do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from perdure.app.accounts import bootstrap
from perdure.app.context import App
from perdure.app.file_access import OfSession, change_files
from perdure.app.sessions import create_session
from perdure.app.shell_changes import Changes, Saved
from perdure.app.shell_files import after_command, before_command
from perdure.domain.accounts import Caller
from perdure.domain.files import content_of
from perdure.domain.guards import GuardedFiles
from perdure.domain.ids import SessionId, UserId, WorkspaceId
from perdure.domain.memories import MemoryMount, Mounts
from perdure.domain.sessions import CreateSession
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, write_files
from perdure.store.sessions import SessionRow
from perdure.store.workspaces import WorkspaceRow
from perdure.wiring import open_parts


@dataclass(frozen=True)
class Tool:
    """A tool of a session: what it works for."""

    owner: Caller
    mounts: Mounts | None = None

    @property
    def organization_id(self) -> str:
        return self.owner.organization_id

    def own_workspace(self, session_id: SessionId) -> WorkspaceId | None:
        return None

    def own_memories(self, session_id: SessionId) -> Mounts | None:
        return self.mounts


class Room:
    """A session of an organization on SQLite.

    Tests open it themselves: the thread of a database that a fixture opens is not measured.
    """

    app: App
    owner: Caller
    id: SessionId
    tool: Tool

    def __init__(self, folder: Path) -> None:
        self._settings = Settings(data=str(folder))
        self.opened = AsyncExitStack()

    async def open(self, *mounts: MemoryMount) -> None:
        """Open it, with these memories in the session's files."""
        self.app = (await self.opened.enter_async_context(open_parts(self._settings))).app
        self.owner = await bootstrap(self.app)
        self.id = (await create_session(self.app, self.owner, CreateSession())).id
        user = UserId(self.owner.user_id)
        self.tool = Tool(self.owner, Mounts(mounts, user, None, user) if mounts else None)

    async def write(self, files: Mapping[str, bytes], **how: bool) -> None:
        """Write files as somebody else does."""

        async def work(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> None:
            writes = [FileWrite(path, content_of(data), **how) for path, data in files.items()]
            await write_files(tx, space, writes, self.app.file_limits, self.app.now())

        await change_files(self.app, self.owner, OfSession(self.id), work)

    async def files(self) -> dict[str, bytes]:
        return (await before_command(self.app, self.tool, self.id))[0].files

    async def run(
        self,
        changes: Changes,
        meanwhile: Mapping[str, bytes] | None = None,
        guarded: GuardedFiles | None = None,
    ) -> Saved:
        """Save what a command changed, while others change files too."""
        before, _ = await before_command(self.app, self.tool, self.id)
        if meanwhile:
            await self.write(meanwhile)
        return await after_command(self.app, self.tool, self.id, before, changes, "x=1", guarded)
