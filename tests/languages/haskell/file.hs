main :: IO ()
main = writeFile "out.txt" "made by haskell\n"
