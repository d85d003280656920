let () = Printf.printf "%d\n" (Prices.total 6 7)
