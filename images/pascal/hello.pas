program hello;
begin
  writeln('hello from pascal');
end.
