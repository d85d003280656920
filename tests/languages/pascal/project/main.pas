program till;
uses prices;
begin
  writeln(total(6, 7));
end.
