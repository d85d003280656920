File.write("out.txt", "made by ruby\n")
