program maker
  open(1, file="out.txt")
  write(1, "(a)") "made by fortran"
  close(1)
end program maker
