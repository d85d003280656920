line <- readLines("stdin", n = 1)
cat("«", line, "»\n")
