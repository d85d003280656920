IO.puts("« #{String.trim(IO.gets(""))} »")
