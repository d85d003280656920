for line in io.lines("out.txt") do print(line) end
