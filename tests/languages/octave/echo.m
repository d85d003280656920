line = fgetl(stdin);
printf("« %s »\n", line);
