open my $in, "<", "out.txt" or die;
print <$in>;
