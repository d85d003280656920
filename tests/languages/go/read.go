package main

import (
	"io"
	"os"
)

func main() {
	file, err := os.Open("out.txt")
	if err != nil {
		panic(err)
	}
	io.Copy(os.Stdout, file)
}
