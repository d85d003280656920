module prices
contains
  integer function total(count, price)
    integer, intent(in) :: count, price
    total = count * price
  end function total
end module prices
