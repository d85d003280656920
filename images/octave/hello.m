disp("hello from octave")
