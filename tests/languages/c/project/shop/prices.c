#include "shop/prices.h"

int total(int count, int price)
{
    return count * price;
}
