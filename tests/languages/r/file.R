writeLines("made by r", "out.txt")
