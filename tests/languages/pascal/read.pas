program reader;
var source: text; line: string;
begin
  assign(source, 'out.txt');
  reset(source);
  readln(source, line);
  writeln(line);
end.
