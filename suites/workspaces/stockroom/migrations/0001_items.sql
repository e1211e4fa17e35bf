CREATE TABLE items (
    number   TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    quantity INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE reservations (
    id       INTEGER PRIMARY KEY,
    number   TEXT NOT NULL REFERENCES items (number),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    person   TEXT NOT NULL,
    made     TEXT NOT NULL
);
