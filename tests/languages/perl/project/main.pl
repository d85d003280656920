use strict;
use lib "lib";
use Shop::Prices;

print Shop::Prices::total(6, 7), "\n";
