program reader
  character(len=100) :: line
  open(1, file="out.txt", status="old")
  read(1, "(a)") line
  print "(a)", trim(line)
end program reader
