program broken
  implicit none
  a = 1
end program broken
