@include "shop/prices.awk"

BEGIN { print total(6, 7) }
