package main

import "fmt"

func main() { fmt.Println(sum(6, 7)) }
