%include "print.inc"
        global  _start
        section .text
_start: lea     rsi, [rel text]
        mov     edx, 3
        print
        mov     eax, 60
        xor     edi, edi
        syscall
        section .rodata
text:   db      "42", 10
