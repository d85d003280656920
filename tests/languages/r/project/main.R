source("shop/prices.R")
cat(total(6, 7), "\n", sep = "")
