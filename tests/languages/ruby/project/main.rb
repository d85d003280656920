require_relative "shop/prices"

puts Prices.total(6, 7)
