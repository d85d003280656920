local prices = require("shop.prices")
print(prices.total(6, 7))
