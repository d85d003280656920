local out = io.open("out.txt", "w")
out:write("made by lua\n")
out:close()
