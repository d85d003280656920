print("«", input(), "»")
