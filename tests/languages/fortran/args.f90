program arguments
  character(len=100) :: arg
  integer :: i
  do i = 1, command_argument_count()
    call get_command_argument(i, arg)
    print "(a)", trim(arg)
  end do
end program arguments
