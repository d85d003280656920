#include <stdio.h>

int main(void)
{
    char line[100];
    FILE *in = fopen("out.txt", "r");
    return in == NULL || fgets(line, sizeof line, in) == NULL || fputs(line, stdout) < 0;
}
