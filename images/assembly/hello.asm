        global  _start
        section .text
_start: mov     eax, 1              ; write(1, text, size)
        mov     edi, 1
        lea     rsi, [rel text]
        mov     edx, size
        syscall
        mov     eax, 60             ; exit(0)
        xor     edi, edi
        syscall
        section .rodata
text:   db      "hello from assembly", 10
size    equ     $ - text
