CREATE INDEX kjob_ended_owner ON kjob_ended (owner, id);
-- Those that expire before their partition does.
CREATE INDEX kjob_ended_early ON kjob_ended (expires_at) WHERE is_early;
