#include <stdio.h>

int main(void)
{
    FILE *out = fopen("out.txt", "w");
    fputs("made by c\n", out);
    return fclose(out);
}
