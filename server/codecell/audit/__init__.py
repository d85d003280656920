"""The audit log: who did what, in a chain of lines that shows what was changed.

`chain` is the format and its check, `book` one chain on disk, `writer` the thread that writes it,
`witness` the observer that tells it of runs, `reading` what the commands look up.
"""
