print("« " .. io.read() .. " »")
