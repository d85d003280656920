defmodule Prices do
  def total(count, price), do: count * price
end
