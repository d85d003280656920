-module(reader).
-export([main/0]).

main() ->
    {ok, Text} = file:read_file("out.txt"),
    io:put_chars(Text).
