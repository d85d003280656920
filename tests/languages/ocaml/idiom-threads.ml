let () = Thread.join (Thread.create print_endline "7")
