-- Where starts and progress find room beside the row they change, indexes need no new entries for progress. Dead rows of
-- the queue are to go long before a fifth of a large table is dead.
ALTER TABLE kjob_live SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE kjob_counters SET (fillfactor = 10);
ALTER TABLE kjob_usage SET (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
ALTER TABLE kjob_usage_of SET (fillfactor = 50, autovacuum_vacuum_threshold = 1000);
ALTER TABLE kjob_nodes SET (fillfactor = 20);
