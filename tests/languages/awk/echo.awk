{ print "« " $0 " »" }
