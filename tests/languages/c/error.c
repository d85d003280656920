#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    fputs("about to fail\n", stderr);
    abort();
}
