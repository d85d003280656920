module Main (main) where

main :: IO ()
main = do
  let numbers = [1 ..] :: [Integer]
  print (takeWhile (> 0) numbers !! 1000000000)
  print (length numbers)
