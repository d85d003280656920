use strict;
use List::Util qw(first);
print "hello from perl\n";
