package main

func main() {
	var kept [][]byte
	for {
		chunk := make([]byte, 1<<20)
		for i := range chunk {
			chunk[i] = 1
		}
		kept = append(kept, chunk)
	}
}
