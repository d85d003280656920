SELECT '« ' || trim(CAST(readfile('/dev/stdin') AS TEXT), char(10)) || ' »';
