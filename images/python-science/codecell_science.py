"""What a waiting cell imports ahead of time, with matplotlib's list of fonts kept in the image."""

import importlib
import os
from pathlib import Path

import matplotlib as mpl

FONTS = "/usr/share/codecell/matplotlib"

if os.getuid() == 0:  # while the image is built
    Path(FONTS).mkdir(parents=True, exist_ok=True)
original = mpl.get_cachedir
mpl.get_cachedir = lambda: FONTS
try:
    for name in ("numpy", "pandas", "matplotlib.pyplot"):
        importlib.import_module(name)
finally:
    mpl.get_cachedir = original
