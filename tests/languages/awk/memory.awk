BEGIN { for (;;) kept[n++] = sprintf("%100000d", n) }
