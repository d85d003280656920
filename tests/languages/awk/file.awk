BEGIN { print "made by awk" >"out.txt" }
