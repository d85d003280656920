SELECT trim(CAST(readfile('out.txt') AS TEXT), char(10));
