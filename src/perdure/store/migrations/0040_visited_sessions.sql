-- confidential_sessions.user_id is empty if somebody else than the session's owner has written in it.
-- Of older sessions nobody knows, unless their organization has one member.
INSERT INTO confidential_sessions (session_id, org_id, user_id, created_at)
SELECT s.id, s.org_id, '', s.updated_at FROM sessions s
WHERE s.root_session_id IS NULL
AND NOT EXISTS (SELECT 1 FROM confidential_sessions c WHERE c.session_id = s.id)
AND (SELECT COUNT(*) FROM memberships m WHERE m.org_id = s.org_id) > 1;
