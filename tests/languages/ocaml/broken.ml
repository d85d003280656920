let a : int = "no"
