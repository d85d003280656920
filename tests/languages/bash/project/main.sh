. shop/prices.sh
total 6 7
