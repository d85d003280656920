program echo
  character(len=100) :: line
  read "(a)", line
  print "(3a)", "« ", trim(line), " »"
end program echo
