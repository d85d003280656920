program fails
  error stop "no"
end program fails
