"""Side-by-side measurements of codecell and its peers; never part of the gate."""
