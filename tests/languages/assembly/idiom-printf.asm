global main
extern printf

section .data
format: db '%d', 10, 0

section .text
main:
    push rbp
    lea rdi, [rel format]
    mov esi, 7
    xor eax, eax
    call printf
    pop rbp
    xor eax, eax
    ret
