(call-with-output-file "out.txt"
  (lambda (out) (display "made by scheme\n" out)))
