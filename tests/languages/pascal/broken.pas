program broken;
var a: integer;
begin
  a := 'no';
end.
