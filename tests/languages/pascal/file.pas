program maker;
var target: text;
begin
  assign(target, 'out.txt');
  rewrite(target);
  writeln(target, 'made by pascal');
  close(target);
end.
