main :: IO ()
main = readFile "out.txt" >>= putStr
