Code.require_file("prices.ex", __DIR__)

IO.puts(Prices.total(6, 7))
