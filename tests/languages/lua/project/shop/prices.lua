local prices = {}

function prices.total(count, price) return count * price end

return prices
