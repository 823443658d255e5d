-- What all nodes have to have in common, as the first of them said it.
CREATE TABLE kjob_agreed (
    name text NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);
