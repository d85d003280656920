(load "shop/prices.scm")
(display (total 6 7))
(newline)
