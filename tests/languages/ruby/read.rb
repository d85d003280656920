print File.read("out.txt")
