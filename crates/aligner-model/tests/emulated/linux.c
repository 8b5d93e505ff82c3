// As much of Linux as a statically linked program needs that computes on one thread and prints.
//
// Memory: this from 1 MiB on, the program's file behind it, the program at 128 MiB, what it allocates from 256 MiB on, and its
// stack below 496 MiB.
#include <stdint.h>

typedef uint64_t u64;

enum { HEAP = 0x10000000, MAPPED = 0x14000000, MAPPED_END = 0x1e000000, STACK = 0x1f000000, PROGRAM = 0x8000000 };
enum { EAGAIN = -11, ENOENT = -2, ENOMEM = -12, ENOSYS = -38, ENOTTY = -25 };

void system_call(void), exception(void), enter(u64 entry, u64 *stack);

static void port(uint16_t port, char value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static void msr(uint32_t which, u64 value) {
    __asm__ volatile("wrmsr" ::"c"(which), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static void print(const char *text) {
    while (*text) port(0xe9, *text++);
}

static void print_number(const char *text, u64 number) {
    print(text);
    for (int shift = 60; shift >= 0; shift -= 4)
        if (number >> shift || shift == 0) port(0xe9, "0123456789abcdef"[number >> shift & 15]);
    print("\n");
}

static void power_off(void) {
    for (const char *word = "Shutdown"; *word; word++) port(0x8900, *word);
    for (;;) __asm__ volatile("hlt");
}

void *memset(void *to, int value, u64 count) {
    for (u64 i = 0; i < count; i++) ((char *)to)[i] = value;
    return to;
}

void *memcpy(void *to, const void *from, u64 count) {
    for (u64 i = 0; i < count; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void report(u64 *stack) {
    for (int i = 0; i < 4; i++) print_number("exception, on its stack: ", stack[i]);
    power_off();
}

static u64 write(u64 from, u64 count) {
    for (u64 i = 0; i < count; i++) port(0xe9, ((char *)from)[i]);
    return count;
}

u64 handle(u64 number, u64 a, u64 b, u64 c) {
    static u64 heap = HEAP, mapped = MAPPED, nanoseconds;
    switch (number) {
    case 1: // write
        return write(b, c);
    case 20: { // writev
        u64 total = 0;
        for (u64 *part = (u64 *)b; c > 0; c--, part += 2) total += write(part[0], part[1]);
        return total;
    }
    case 9: { // mmap
        u64 at = mapped;
        if (b > MAPPED_END - at) return ENOMEM;
        mapped += (b + 4095) & ~(u64)4095;
        return (u64)memset((void *)at, 0, b);
    }
    case 12: // brk
        if (heap < a && a <= MAPPED) {
            memset((void *)heap, 0, a - heap);
            heap = a;
        }
        return heap;
    case 158: // arch_prctl, which is asked for the base of fs
        msr(0xC0000100, b);
        return 0;
    case 228: // clock_gettime
        nanoseconds += 1000;
        ((u64 *)b)[0] = 1 + nanoseconds / 1000000000;
        ((u64 *)b)[1] = nanoseconds % 1000000000;
        return 0;
    case 318: // getrandom
        for (u64 i = 0; i < b; i++) ((char *)a)[i] = i * 151 + 7;
        return b;
    case 60: case 231: // exit, exit_group
        print_number("\nexit status ", a);
        power_off();
    case 62: case 200: case 234: // kill, tkill, tgkill
        print("\nkilled\n");
        power_off();
    case 39: case 186: case 218: // getpid, gettid, set_tid_address
        return 1;
    case 56: case 57: case 58: case 435: // clone, fork, vfork, clone3: the test harness then does without
        return EAGAIN;
    case 2: case 21: case 79: case 89: case 257: case 267: // open, access, getcwd, readlink, openat, readlinkat
        return ENOENT;
    case 16: // ioctl
        return ENOTTY;
    case 204: case 302: case 334: // sched_getaffinity, prlimit64, rseq
        return ENOSYS;
    case 0: case 7: case 10: case 11: case 13: case 14: case 24: case 28: case 131: case 202: case 273:
        // read, poll, mprotect, munmap, rt_sigaction, rt_sigprocmask, sched_yield, madvise, sigaltstack, futex, set_robust_list
        return 0;
    }
    print_number("\nunknown system call ", number);
    return ENOSYS;
}

struct program {
    char identity[24];
    u64 entry, segments, sections;
    uint32_t flags;
    uint16_t size, segment_size, segment_count;
};

struct segment {
    uint32_t kind, flags;
    u64 offset, address, physical, in_file, in_memory, align;
};

// `words` are the program's name and arguments.
static void start(const struct program *program, const char *words) {
    static char arguments[4096];
    const struct segment *segment = (const void *)((const char *)program + program->segments);
    u64 headers = 0;
    for (int i = 0; i < program->segment_count; i++, segment++) {
        if (segment->kind != 1) continue;
        if (segment->address < PROGRAM || segment->address + segment->in_memory > HEAP) {
            print("the program is not linked for its place\n");
            power_off();
        }
        memset((void *)segment->address, 0, segment->in_memory);
        memcpy((void *)segment->address, (const char *)program + segment->offset, segment->in_file);
        if (segment->offset == 0) headers = segment->address + program->segments;
    }
    u64 *stack = (u64 *)STACK, *next = stack + 1;
    char *to = arguments;
    for (stack[0] = 0; *words; stack[0]++) {
        *next++ = (u64)to;
        while (*words && *words != ' ') *to++ = *words++;
        *to++ = 0;
        while (*words == ' ') words++;
    }
    // No environment; the auxiliary vector: program headers, page size, entry, no privileges, random bytes.
    const u64 rest[] = {0, 0, 3, headers, 4, sizeof *segment, 5, program->segment_count, 6, 4096, 9, program->entry,
                        11, 0, 12, 0, 13, 0, 14, 0, 23, 0, 25, (u64)arguments, 0, 0};
    memcpy(next, rest, sizeof rest);
    enter(program->entry, stack);
}

void load(const uint32_t *multiboot) {
    static u64 gates[64];
    static struct { uint16_t limit; u64 at; } __attribute__((packed)) table = {sizeof gates - 1, (u64)gates};
    for (int i = 0; i < 64; i += 2) gates[i] = ((u64)exception & 0xffff) | 0x8e0000080000 | ((u64)exception >> 16 & 0xffff) << 48;
    __asm__ volatile("lidt %0" ::"m"(table));
    msr(0xC0000081, (u64)8 << 32); // STAR
    msr(0xC0000082, (u64)system_call);
    msr(0xC0000084, 0);
    const uint32_t *module = (const uint32_t *)(u64)multiboot[6];
    if (multiboot[5] == 0 || module[1] > PROGRAM) {
        print("the program is too large\n");
        power_off();
    }
    start((const void *)(u64)module[0], (const char *)(u64)module[2]);
}
