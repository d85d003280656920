function result = total(count, price)
  result = count * price;
end
