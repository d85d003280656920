section .bss
kept: resb 1 << 30

section .text
global _start
_start:
    mov rdi, kept
    mov rcx, 1 << 30
    mov al, 1
    rep stosb
    mov rax, 60
    xor rdi, rdi
    syscall
