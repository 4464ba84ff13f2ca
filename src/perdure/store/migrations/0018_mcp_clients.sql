-- This server as a client that somebody registered at an authorization server, as JSON; its secret is in
-- `secrets`.
ALTER TABLE mcp_servers ADD COLUMN oauth TEXT NOT NULL DEFAULT '{}';
