#include "prices.hpp"

int shop::total(int count, int price)
{
    return count * price;
}
