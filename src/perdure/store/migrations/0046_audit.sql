-- Who changed what, when, from where, and what was there before and after. Only added, and deleted by age.
-- before, after: the fields that changed, as JSON; secrets as digests.
CREATE TABLE audit_entries (
    id TEXT{{bytewise}} PRIMARY KEY,
    org_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    entity_type TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    entity_name TEXT,
    session_id TEXT,
    actor_type TEXT NOT NULL,
    actor_id TEXT,
    actor_name TEXT,
    token_id TEXT,
    token_name TEXT,
    operation TEXT NOT NULL,
    request_id TEXT,
    address TEXT,
    forwarded_for TEXT,
    user_agent TEXT,
    reason TEXT,
    before TEXT,
    after TEXT,
    rows_changed BIGINT NOT NULL
);

CREATE INDEX audit_entries_by_org ON audit_entries (org_id, id);

CREATE INDEX audit_entries_by_entity ON audit_entries (org_id, entity_id, id);

CREATE INDEX audit_entries_by_actor ON audit_entries (org_id, actor_id, id);

CREATE INDEX audit_entries_by_session ON audit_entries (org_id, session_id, id)
    WHERE session_id IS NOT NULL;

-- The states of agents and harnesses, one row for each change. Never changed. content: all fields, as JSON.
CREATE TABLE revisions (
    id TEXT{{bytewise}} PRIMARY KEY,
    org_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    entity_name TEXT,
    revision BIGINT NOT NULL,
    action TEXT NOT NULL,
    actor_type TEXT NOT NULL,
    actor_id TEXT,
    actor_name TEXT,
    token_id TEXT,
    reason TEXT,
    audit_entry_id TEXT,
    content TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX revisions_by_org ON revisions (org_id, id);

CREATE UNIQUE INDEX revisions_by_entity ON revisions (org_id, entity_id, revision);

-- A transaction that deletes old entries, or erases a user from them, has a row here while it does, and
-- nobody else sees it.
CREATE TABLE audit_gate (
    one INTEGER PRIMARY KEY
);

{{sqlite}} CREATE TRIGGER audit_entries_kept BEFORE UPDATE ON audit_entries
    WHEN NOT EXISTS (SELECT 1 FROM audit_gate)
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

{{sqlite}} CREATE TRIGGER audit_entries_stay BEFORE DELETE ON audit_entries
    WHEN NOT EXISTS (SELECT 1 FROM audit_gate)
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

{{sqlite}} CREATE TRIGGER revisions_kept BEFORE UPDATE ON revisions
    WHEN NOT EXISTS (SELECT 1 FROM audit_gate)
    BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;

{{sqlite}} CREATE TRIGGER revisions_stay BEFORE DELETE ON revisions
    WHEN NOT EXISTS (SELECT 1 FROM audit_gate)
    BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;

{{postgres}} CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF TG_OP <> ''TRUNCATE'' AND EXISTS (SELECT 1 FROM audit_gate) THEN '
    'IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF; RETURN NEW; END IF; '
    'RAISE EXCEPTION ''the audit log and the history are append-only''; END';

{{postgres}} CREATE TRIGGER audit_entries_kept BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();

{{postgres}} CREATE TRIGGER audit_entries_whole BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

{{postgres}} CREATE TRIGGER revisions_kept BEFORE UPDATE OR DELETE ON revisions
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();

{{postgres}} CREATE TRIGGER revisions_whole BEFORE TRUNCATE ON revisions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
