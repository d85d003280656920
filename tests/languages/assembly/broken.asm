        global  _start
_start: movv    eax, 60
