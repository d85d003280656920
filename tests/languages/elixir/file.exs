File.write!("out.txt", "made by elixir\n")
