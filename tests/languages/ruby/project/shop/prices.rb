module Prices
  def self.total(count, price) = count * price
end
