let () = Printf.printf "« %s »\n" (read_line ())
