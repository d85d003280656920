from pathlib import Path

print(Path("out.txt").read_text(), end="")
