"""The agent, which runs in a cell and not in the server.

`boot` is the command that a container starts; it makes the other modules of what the server sends
(`codecell.parcel`), so that an image needs nothing but a python3 of its own, 3.9 or newer. Standard
library only, and as little of that as will do: every cell pays for it in memory and start-up time.
"""
