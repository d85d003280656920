program till
  use prices
  print "(i0)", total(6, 7)
end program till
