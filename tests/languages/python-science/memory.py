a = []
while True:
    a.append(b"x" * 1_000_000)
