writeLines(readLines("out.txt"))
