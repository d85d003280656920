        global  _start
        section .text
_start: mov     r12, [rsp]
        lea     r13, [rsp + 16]
next:   dec     r12
        jz      done
        mov     rsi, [r13]
        add     r13, 8
        xor     edx, edx
length: inc     edx
        cmp     byte [rsi + rdx], 0
        jne     length
        mov     byte [rsi + rdx], 10
        inc     edx
        mov     eax, 1
        mov     edi, 1
        syscall
        jmp     next
done:   mov     eax, 60
        xor     edi, edi
        syscall
