-- Numbers that are handed out once: ids of jobs, nodes, handles and partitions.
CREATE TABLE kjob_counters (
    name text NOT NULL PRIMARY KEY,
    next bigint NOT NULL
);
INSERT INTO kjob_counters (name, next) VALUES ('job', 1), ('node', 1), ('handle', 1), ('part', 1);

-- Jobs that have not ended. Texts of users are bytes, as a text here can have no NUL; order is that of bytes.
CREATE TABLE kjob_live (
    id bigint NOT NULL PRIMARY KEY,
    turn bigint NOT NULL,
    lease bigint NOT NULL,
    attempt bigint NOT NULL,
    node bigint,
    received_at bigint NOT NULL,
    not_before bigint,
    started_at bigint,
    retention_ms bigint NOT NULL,
    phase smallint NOT NULL,
    progress smallint NOT NULL,
    priority smallint NOT NULL,
    encoding smallint NOT NULL,
    is_delayed boolean NOT NULL,
    is_called_back boolean NOT NULL,
    lane bytea NOT NULL,
    owner bytea NOT NULL,
    endpoint bytea NOT NULL,
    tag bytea NOT NULL,
    details bytea NOT NULL,
    payload bytea NOT NULL
);
-- What a claim walks along, and stops.
CREATE INDEX kjob_live_queue ON kjob_live (lane, priority DESC, turn, id) WHERE phase = 0 AND NOT is_delayed;
CREATE INDEX kjob_live_delayed ON kjob_live (not_before) WHERE phase = 0 AND is_delayed;
CREATE INDEX kjob_live_running ON kjob_live (node, phase) WHERE phase > 0 AND node IS NOT NULL;

-- Whose a name is: a tag, a slash, and the owner. Outlives the move of its job from one table to the other.
CREATE TABLE kjob_tags (
    name bytea NOT NULL PRIMARY KEY,
    id bigint NOT NULL
);

-- How far callbacks are; those with a due_at are pending.
CREATE TABLE kjob_callbacks (
    id bigint NOT NULL PRIMARY KEY,
    expires_at bigint NOT NULL,
    due_at bigint,
    next_at bigint,
    tried_at bigint,
    attempts bigint NOT NULL,
    claimed_by bigint,
    phase smallint NOT NULL,
    http_status integer,
    error bytea
);
CREATE INDEX kjob_callbacks_due ON kjob_callbacks (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX kjob_callbacks_claimed ON kjob_callbacks (claimed_by) WHERE claimed_by IS NOT NULL;

-- What is stored and what waits. Everyone adds to a row of their own; the sum counts.
CREATE TABLE kjob_usage (
    shard bigint NOT NULL PRIMARY KEY,
    jobs bigint NOT NULL,
    bytes bigint NOT NULL,
    waiting bigint NOT NULL,
    touched_at timestamptz NOT NULL
);
CREATE TABLE kjob_usage_of (
    owner bytea NOT NULL,
    shard bigint NOT NULL,
    jobs bigint NOT NULL,
    bytes bigint NOT NULL,
    waiting bigint NOT NULL,
    PRIMARY KEY (owner, shard)
);

-- Engines that share the database.
CREATE TABLE kjob_nodes (
    id bigint NOT NULL PRIMARY KEY,
    url bytea NOT NULL,
    lease_ms bigint NOT NULL,
    alive_until timestamptz NOT NULL,
    is_gone boolean NOT NULL
);

-- The partitions of kjob_ended.
CREATE TABLE kjob_parts (
    number bigint NOT NULL PRIMARY KEY,
    bucket bigint NOT NULL,
    ends_at bigint NOT NULL,
    swept_to bigint NOT NULL,
    is_detached boolean NOT NULL
);
CREATE UNIQUE INDEX kjob_parts_bucket ON kjob_parts (bucket) WHERE NOT is_detached;
