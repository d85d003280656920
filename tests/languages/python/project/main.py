from shop import prices

print(prices.total(6, 7))
