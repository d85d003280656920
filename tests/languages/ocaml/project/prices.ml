let total count price = count * price
