-module(maker).
-export([main/0]).

main() ->
    ok = file:write_file("out.txt", "made by erlang\n").
