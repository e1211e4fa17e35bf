CREATE TABLE places (
    id       INTEGER PRIMARY KEY,
    number   TEXT NOT NULL REFERENCES items (number),
    location TEXT NOT NULL,
    UNIQUE (number, location)
);
CREATE INDEX reservations_by_number ON reservations (number);
