open my $out, ">", "out.txt" or die;
print $out "made by perl\n";
close $out;
