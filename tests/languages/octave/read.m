in = fopen("out.txt");
puts(fgets(in));
fclose(in);
