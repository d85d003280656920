% An Octave started before its program is known, with this in place of its site's octaverc: it says
% that it waits, and waits for one byte. Then it is what `octave-cli main.m` would be.
unsetenv("OCTAVE_SITE_INITFILE");
unsetenv("OCTAVE_VERSION_INITFILE");
codecell_go = fopen("/tmp/.standby.m.go", "r");
codecell_waiting = fopen("/tmp/.standby.m.oops", "w");
fputs(codecell_waiting, "+");
fclose(codecell_waiting);
if (isempty(fread(codecell_go, 1)))
  exit
end
fclose(codecell_go);
clear codecell_go codecell_waiting ans
rehash(); % the files of the program have come meanwhile
