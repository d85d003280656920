        global  _start
        section .text
_start: mov     eax, 2              ; open("out.txt", O_WRONLY | O_CREAT, 0644)
        lea     rdi, [rel name]
        mov     esi, 0o101
        mov     edx, 0o644
        syscall
        mov     edi, eax
        mov     eax, 1              ; write
        lea     rsi, [rel text]
        mov     edx, length
        syscall
        mov     eax, 60
        xor     edi, edi
        syscall
        section .rodata
name:   db      "out.txt", 0
text:   db      "made by assembly", 10
length  equ     $ - text
