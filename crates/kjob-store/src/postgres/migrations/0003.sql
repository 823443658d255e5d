-- Which shard of a set of databases this one is. A row for each size that the set has had; the last one counts.
CREATE TABLE kjob_shards (
    generation bigint NOT NULL PRIMARY KEY,
    set_id bytea NOT NULL,
    shard bigint NOT NULL,
    size bigint NOT NULL,
    alone_until bigint NOT NULL,
    ids_until bigint NOT NULL
);
-- How often that was changed. Who joins or takes ids of jobs must know of the last change.
INSERT INTO kjob_counters (name, next) VALUES ('shards', 0);
-- Who this database is: a set is called after its first one.
INSERT INTO kjob_agreed (name, value)
    VALUES ('database', decode(md5(random()::text || clock_timestamp()::text || random()::text), 'hex'));
