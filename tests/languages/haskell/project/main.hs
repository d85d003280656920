module Main (main) where

import Shop.Prices (total)

main :: IO ()
main = print (total 6 7)
