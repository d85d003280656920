program echo;
var line: string;
begin
  readln(line);
  writeln('« ', line, ' »');
end.
