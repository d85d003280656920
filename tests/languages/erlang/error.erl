-module(fails).
-export([main/0]).

main() -> error(no).
