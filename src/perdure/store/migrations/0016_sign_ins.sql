-- What parked calls ask people for. identity: whose sign-in, as in connections. sealed: the question, the
-- state of the call at its server, and the answer. status: open, answered or ended. known_at: when the
-- sign-in was made that does not suffice; 0 without one. Any other one resumes the call: clocks differ.
CREATE TABLE input_requests (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    exec_id TEXT NOT NULL,
    tool_call_id TEXT NOT NULL,
    tool_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    identity TEXT NOT NULL,
    server_key TEXT NOT NULL,
    status TEXT NOT NULL,
    sealed {{blob}} NOT NULL,
    known_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL
);

CREATE INDEX input_requests_by_session ON input_requests (session_id, status);

CREATE INDEX input_requests_by_server ON input_requests (org_id, server_key, identity) WHERE status = 'open';

CREATE INDEX input_requests_by_deadline ON input_requests (deadline);

-- Sign-ins that have begun. hash: the SHA-256 of the token of the page to begin at; state_hash: that of the
-- state that the authorization server gives back. sealed: the PKCE verifier, the client, what was validated.
CREATE TABLE sign_ins (
    hash TEXT PRIMARY KEY,
    state_hash TEXT NOT NULL UNIQUE,
    org_id TEXT NOT NULL,
    identity TEXT NOT NULL,
    server_key TEXT NOT NULL,
    sealed {{blob}} NOT NULL,
    created_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL
);

CREATE INDEX sign_ins_by_deadline ON sign_ins (deadline);

-- Tokens of MCP servers. identity: a user's id, or `service`. version counts the grants that were stored;
-- refreshing_until: until when one process alone may refresh it. signed_in_at: when a person last signed in.
CREATE TABLE connections (
    org_id TEXT NOT NULL,
    identity TEXT NOT NULL,
    server_key TEXT NOT NULL,
    server_name TEXT NOT NULL,
    url TEXT NOT NULL,
    issuer TEXT NOT NULL,
    scope TEXT NOT NULL,
    sealed {{blob}} NOT NULL,
    version INTEGER NOT NULL,
    refreshing_until BIGINT NOT NULL,
    signed_in_at BIGINT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, identity, server_key)
);

CREATE INDEX connections_by_server ON connections (org_id, server_key);

-- This server as a client that registered itself at authorization servers.
CREATE TABLE oauth_clients (
    org_id TEXT NOT NULL,
    issuer TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    sealed {{blob}} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, issuer, redirect_uri)
);
