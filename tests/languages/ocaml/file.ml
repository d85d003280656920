let () =
  let out = open_out "out.txt" in
  output_string out "made by ocaml\n";
  close_out out
