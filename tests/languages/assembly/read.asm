        global  _start
        section .text
_start: mov     eax, 2              ; open("out.txt", O_RDONLY)
        lea     rdi, [rel name]
        xor     esi, esi
        syscall
        mov     edi, eax
        xor     eax, eax            ; read
        lea     rsi, [rel text]
        mov     edx, 100
        syscall
        mov     edx, eax
        mov     eax, 1              ; write
        mov     edi, 1
        syscall
        mov     eax, 60
        xor     edi, edi
        syscall
        section .rodata
name:   db      "out.txt", 0
        section .bss
text:   resb    100
