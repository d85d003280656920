puts "« #{gets.chomp} »"
