main :: IO ()
main = mapM_ print (filter (< 0) [(1 :: Integer) ..])
