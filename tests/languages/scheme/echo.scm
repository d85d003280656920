(use-modules (ice-9 rdelim))
(setlocale LC_ALL "")
(format #t "« ~a »~%" (read-line))
