chomp(my $line = <STDIN>);
print "« $line »\n";
