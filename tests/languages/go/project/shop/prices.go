package shop

import "example.com/till/shop/internal/math"

func Total(count, price int) int { return math.Times(count, price) }
