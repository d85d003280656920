#include <iostream>

#include "shop/prices.hpp"

int main()
{
    std::cout << shop::total(6, 7) << std::endl;
}
