out = fopen("out.txt", "w");
fputs(out, "made by octave\n");
fclose(out);
