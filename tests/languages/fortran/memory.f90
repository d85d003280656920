program memory
  implicit none
  type block
    real(8), allocatable :: numbers(:)
  end type
  type(block) :: kept(100000)
  integer :: i
  do i = 1, 100000
    allocate (kept(i)%numbers(100000))
    kept(i)%numbers = i
  end do
  print *, kept(1)%numbers(1)
end program
