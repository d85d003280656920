printf("%d\n", total(6, 7));
