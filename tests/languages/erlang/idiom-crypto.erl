-module(seven).
-export([start/0]).

start() ->
    <<First, _/binary>> = crypto:hash(sha256, <<"abc">>),
    io:format("~p~n", [First - 179]).
