.read prices.sql
SELECT sum(count * price) FROM prices;
