package main

import "os"

func main() { os.WriteFile("out.txt", []byte("made by go\n"), 0o644) }
