(use-modules (ice-9 rdelim))
(call-with-input-file "out.txt"
  (lambda (in) (display (read-line in)) (newline)))
