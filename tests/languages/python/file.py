from pathlib import Path

Path("out.txt").write_text("made by python\n")
