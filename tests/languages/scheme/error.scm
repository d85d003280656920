(error "no")
