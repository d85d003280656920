-module(echo).
-export([main/0]).

main() ->
    Line = string:trim(io:get_line("")),
    io:format("« ~ts »~n", [Line]).
