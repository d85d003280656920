CREATE TABLE prices (count INTEGER, price INTEGER);
INSERT INTO prices VALUES (6, 7);
