(let fill ((kept (list)))
  (fill (cons (make-vector 100000 0) kept)))
