-module(main).
-export([main/0]).
-include("shop.hrl").

main() ->
    io:format("~b~n", [prices:total(6, ?PRICE)]).
