package shop

fun total(count: Int, price: Int) = count * price
