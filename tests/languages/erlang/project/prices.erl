-module(prices).
-export([total/2]).

total(Count, Price) -> Count * Price.
