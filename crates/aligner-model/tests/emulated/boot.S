/* From 32 bits, as a multiboot loader leaves the processor, to 64, where the first GiB of memory is mapped to itself and all vector
   instructions are enabled. */
.text
.code32
.align 4
header:
    .long 0x1BADB002, 0x00010003, -(0x1BADB002 + 0x00010003)
    .long header, header, _edata, _end, start
start:
    mov %ebx, %esi
    movl $pages_of_512_gib + 3, pages_of_all
    movl $pages_of_gib + 3, pages_of_512_gib
    mov $pages_of_gib, %edi
    mov $0x83, %eax             /* there, writable, 2 MiB */
    mov $512, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pages_of_all, %eax
    mov %eax, %cr3
    mov $0x40620, %eax          /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    mov %eax, %cr4
    mov $0xC0000080, %ecx
    mov $0x101, %eax            /* EFER: SCE, LME */
    xor %edx, %edx
    wrmsr
    mov $0x80000033, %eax       /* PG, NE, ET, MP, PE */
    mov %eax, %cr0
    lgdt table
    ljmp $8, $in_64_bits
.code64
in_64_bits:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack, %rsp
    mov $0xD, %eax
    xor %ecx, %ecx
    cpuid
    and $0xe7, %eax             /* XCR0: x87, SSE, AVX, AVX-512, of what is there */
    xor %ecx, %ecx
    xor %edx, %edx
    xsetbv
    mov %esi, %edi
    call load

/* A system call keeps all registers but rax, rcx and r11, and 128 bytes below the stack. */
.globl system_call
system_call:
    lea -128(%rsp), %rsp
    push %rcx
    push %rdi
    push %rsi
    push %rdx
    push %r8
    push %r9
    push %r10
    push %rbx
    mov %rsp, %rbx
    and $-16, %rsp
    mov %rdx, %rcx
    mov %rsi, %rdx
    mov %rdi, %rsi
    mov %rax, %rdi
    call handle
    mov %rbx, %rsp
    pop %rbx
    pop %r10
    pop %r9
    pop %r8
    pop %rdx
    pop %rsi
    pop %rdi
    pop %rcx
    lea 128(%rsp), %rsp
    jmp *%rcx

.globl enter
enter:
    mov %rsi, %rsp
    xor %edx, %edx
    jmp *%rdi

.globl exception
exception:
    mov %rsp, %rdi
    and $-16, %rsp
    call report

.data
.align 8
segments:
    .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
table:
    .word 23
    .long segments

.bss
.align 4096
pages_of_all: .skip 4096
pages_of_512_gib: .skip 4096
pages_of_gib: .skip 4096
.skip 65536
stack:
