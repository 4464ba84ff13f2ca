"""The tables whose changes the audit log has, and what it shows of their rows."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.audits import Verb


class Watched(Struct, frozen=True, kw_only=True):
    """A kind of entity, which has a row.

    Attributes:
        table: the table.
        type: the kind's name, with which its actions begin.
        prefix: what the ids of the kind begin with, if that is not its name.
        key: the columns of the table's primary key.
        shown: columns that are shown as they are.
        json: columns with JSON. The members of an object are shown as fields of the entity.
        digests: columns of which only a digest is shown.
        sealed: a column with a secret that is encrypted, and the place it is bound to, as a format of the
            row's columns. A digest of the secret is shown.
        id: the entity's id, as a format of the row's columns.
        name: the column with its name; empty without one.
        org: the column with its organization; empty if it belongs to none.
        session: the column with the session that it is in; empty without one.
        gone: a column that has a value if the row counts as deleted; empty without one.
        only: a condition of the rows that are watched; empty for all.
        single: whether the rows that a request changes have one entry together.
        history: whether every state is kept as a revision.
    """

    table: str
    type: str
    prefix: str = ""
    key: tuple[str, ...] = ("id",)
    shown: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    sealed: tuple[str, str] | None = None
    id: str = "{id}"
    name: str = ""
    org: str = "org_id"
    session: str = ""
    gone: str = ""
    only: str = ""
    single: bool = False
    history: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        sealed = () if self.sealed is None else (self.sealed[0],)
        more = (each for each in (self.name, self.org, self.session, self.gone) if each)
        named = (*self.key, *self.shown, *self.json, *self.digests, *sealed, *more, *self.parts)
        return tuple(dict.fromkeys(named))

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns in the entity's id."""
        return tuple(each.partition("}")[0] for each in self.id.split("{")[1:])


class Audited(Struct, frozen=True):
    """What of an operation's changes the audit log has.

    Attributes:
        watched: the kind of entity that it changes.
        verb: what it does, if that is not to create, update or delete.
        only: what it does to rows that count; empty for everything. What it updates without having been asked
            to does not count, for example.
        also: another kind of entity that it may change instead.
    """

    watched: Watched
    verb: str = ""
    only: tuple[Verb, ...] = ()
    also: Watched | None = None

    @property
    def kinds(self) -> tuple[Watched, ...]:
        """The kinds of entities that it may change."""
        return (self.watched,) if self.also is None else (self.watched, self.also)

    def action(self, watched: Watched, done: Verb) -> str:
        """Return the action of an entry."""
        return f"{watched.type}.{self.verb or done}"


_LAYER = ("name", "display_name", "description", "system_prompt")
_STATE = ("default_model_id", "tags", "status")

SESSION = Watched(
    table="sessions",
    type="session",
    shown=(
        "title",
        "owner_id",
        "harness_id",
        "agent_id",
        "agent_version_id",
        "locale",
        "model_id",
        "workspace_id",
        "forked_from_id",
        "source",
        "archived_at",
        "held_at",
    ),
    json=("tags", "config", "metadata"),
    name="title",
    session="id",
    gone="deleted_at",
    only="root_session_id IS NULL",
)
TURN = Watched(
    table="sessions",
    type="turn",
    shown=("status", "recoveries", "finished_at"),
    id="{id}",
    name="title",
    session="id",
)
AGENT = Watched(
    table="agents",
    type="agent",
    shown=(*_LAYER, "harness_id", "default_model_id", "status", "default_version_id"),
    json=("tags", "config"),
    name="name",
    history=True,
)
AGENT_VERSION = Watched(
    table="agent_versions",
    type="agent_version",
    prefix="agentver",
    shown=("agent_id", "version_number", "change_kind", "summary", "config_hash"),
    name="version_number",
)
HARNESS = Watched(
    table="harnesses",
    type="harness",
    shown=(*_LAYER, "parent_harness_id", "default_model_id", "status"),
    json=("tags", "config"),
    name="name",
    history=True,
)
ORGANIZATION = Watched(
    table="organizations",
    type="organization",
    prefix="org",
    shown=("name", "default_model_id", "default_harness_id", "onboarding_completed_at"),
    json=("fallback_models",),
    name="name",
    org="id",
)
LIMITS = Watched(
    table="limits",
    type="limits",
    prefix="org",
    key=("org_id", "subject"),
    shown=("active_turns", "open_sessions", "requests_per_minute", "tokens_per_minute"),
    id="{subject}",
    name="subject",
)
RETENTION = Watched(
    table="retention",
    type="retention",
    prefix="org",
    key=("org_id", "kind"),
    shown=("days",),
    id="{kind}",
    name="kind",
)
ERASURE = Watched(table="erasures", type="erasure", shown=("kind", "subject_id"), name="subject_id")
USER = Watched(table="users", type="user", shown=("name", "email"), name="email", org="")
MEMBER = Watched(
    table="memberships",
    type="member",
    prefix="user",
    key=("org_id", "user_id"),
    shown=("user_id", "role"),
    id="{user_id}",
)
TOKEN = Watched(
    table="tokens",
    type="token",
    shown=("name", "user_id", "created_by", "org_id", "expires_at", "revoked_at"),
    name="name",
)
INVITATION = Watched(
    table="invitations",
    type="invitation",
    shown=("email", "role", "created_by", "expires_at"),
    name="email",
)
PROVIDER = Watched(
    table="providers",
    type="provider",
    shown=("name", "provider_type", "base_url", "api_key_set", "status", "last_synced_at"),
    json=("options", "header_names"),
    sealed=("secrets", "provider/{id}"),
    name="name",
)
MODEL = Watched(
    table="models",
    type="model",
    shown=("model_id", "provider_id", "display_name", "enabled", "is_favorite", "context_tokens"),
    json=("capabilities",),
    name="display_name",
)
MCP_SERVER = Watched(
    table="mcp_servers",
    type="mcp_server",
    prefix="mcp",
    shown=("name", "url", "description", "auth_mode", "protocol_mode", "status", "api_key_set"),
    json=("rules", "headers", "labels", "oauth"),
    sealed=("secrets", "mcp/{id}"),
    name="name",
)
MCP_TOOL = Watched(
    table="mcp_pins",
    type="mcp_tool",
    prefix="mcp",
    key=("org_id", "server", "tool"),
    shown=("digest",),
    id="{server}/{tool}",
    name="tool",
)
SKILL = Watched(table="skills", type="skill", shown=("name", "version", "status"), name="name")
WORKSPACE = Watched(
    table="workspaces",
    type="workspace",
    shown=("name", "description", "status"),
    name="name",
    session="session_id",
)
FILE = Watched(
    table="files",
    type="file",
    key=("workspace_id", "path"),
    shown=("path", "is_directory", "is_readonly", "size_bytes"),
    digests=("hash",),
    id="{workspace_id}{path}",
    name="path",
    single=True,
)
MEMORY = Watched(
    table="memories",
    type="memory",
    shown=("name", "description", "scope", "agent_id", "user_id", "status"),
    name="name",
)
MEMORY_VERSION = Watched(
    table="memory_versions",
    type="memory_version",
    prefix="memver",
    shown=("memory_id", "path", "version", "operation", "redacted_at", "redacted_by"),
    name="path",
    single=True,
)
IMAGE = Watched(
    table="images",
    type="image",
    shown=("filename", "content_type", "size_bytes", "width", "height"),
    digests=("hash",),
    name="filename",
    session="session_id",
)
SECRET = Watched(
    table="secrets",
    type="secret",
    key=("session_id", "name"),
    sealed=("sealed", "secret/{session_id}/{name}"),
    id="{session_id}/{name}",
    name="name",
    session="session_id",
)
DATABASE = Watched(
    table="sql_databases",
    type="database",
    key=("session_id", "name"),
    shown=("size_bytes",),
    id="{session_id}/{name}",
    name="name",
    session="session_id",
)
SCHEDULE = Watched(
    table="schedules",
    type="schedule",
    prefix="sched",
    shown=("name", "message", "kind", "cron", "at", "timezone", "enabled"),
    name="name",
    session="session_id",
)
WEBHOOK = Watched(
    table="webhooks",
    type="webhook",
    shown=("url", "task_id", "enabled", "disabled_reason"),
    json=("wanted",),
    sealed=("secret", "webhook/{id}"),
    session="session_id",
)
BUDGET = Watched(
    table="budgets",
    type="budget",
    shown=("subject_type", "subject_id", "currency", "limit_amount", "soft_limit", "credit", "status"),
    json=("period", "metadata"),
)
CONNECTION = Watched(
    table="connections",
    type="connection",
    key=("org_id", "identity", "server_key"),
    shown=("identity", "server_name", "url", "issuer", "scope", "signed_in_at"),
    sealed=("sealed", "connection/{identity}/{server_key}"),
    id="{server_key}/{identity}",
    name="server_name",
)
INBOX_LINK = Watched(
    table="inbox_links",
    type="inbox_link",
    key=("hash",),
    shown=("item_id", "made_by", "deadline"),
    id="{item_id}",
)
WORKER = Watched(table="processes", type="worker", shown=("drain",), name="host", org="")
