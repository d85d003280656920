#include <stdio.h>

#include "shop/prices.h"

int main(void)
{
    printf("%d\n", total(6, 7));
    return 0;
}
