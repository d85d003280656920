"""`codecell doctor --attack`: harmless probes in a real cell, made as every other cell is.

`catalogue` says what is probed and which wall that is, `incell/attack.py` are the probes that run
inside, `bombs` those that end their run, `assault` runs them all through a runner, `gate` keeps a
server from running anything before the critical ones held.
"""
