function total(count, price) { return count * price }
