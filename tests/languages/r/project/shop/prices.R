total <- function(count, price) count * price
