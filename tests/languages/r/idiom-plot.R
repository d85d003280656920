png("plot.png")
plot(1:3)
invisible(dev.off())
cat("7\n")
