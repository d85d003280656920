        global  _start
        section .text
_start: xor     eax, eax            ; read(0, line, 100)
        xor     edi, edi
        lea     rsi, [rel line]
        mov     edx, 100
        syscall
        lea     r12, [rax - 1]      ; without the newline
        lea     rsi, [rel before]
        mov     edx, 3
        call    print
        lea     rsi, [rel line]
        mov     rdx, r12
        call    print
        lea     rsi, [rel after]
        mov     edx, 4
        call    print
        mov     eax, 60
        xor     edi, edi
        syscall
print:  mov     eax, 1
        mov     edi, 1
        syscall
        ret
        section .rodata
before: db      "« "
after:  db      " »", 10
        section .bss
line:   resb    100
