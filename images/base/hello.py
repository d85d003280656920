"""Import what the agent in every cell is made of, then say so."""

import ctypes
import json
import multiprocessing
import select
import ssl
import struct

modules = (ctypes, json, multiprocessing, select, ssl, struct)
if all(modules) and ctypes.CDLL(None).prctl:
    print("hello from base")
