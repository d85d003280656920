import importlib

for name in ("matplotlib.pyplot", "openpyxl", "pandas", "PIL.Image", "scipy.stats", "sklearn.svm"):
    importlib.import_module(name)
six = importlib.import_module("numpy").arange(4).sum()
if six != importlib.import_module("sympy").Integer(6):
    raise SystemExit(1)
print("hello from python-science")
