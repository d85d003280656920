val total : int -> int -> int
