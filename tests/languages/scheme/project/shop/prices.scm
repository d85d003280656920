(define (total count price) (* count price))
