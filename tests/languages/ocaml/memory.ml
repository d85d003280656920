let rec fill kept = fill (Bytes.make 1_000_000 'x' :: kept)
let () = fill []
