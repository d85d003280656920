program leave
  call exit(3)
end program leave
