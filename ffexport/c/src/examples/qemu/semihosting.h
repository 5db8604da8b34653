/* Files, lines and the end of a program by semihosting, and instructions by SysTick: QEMU with -icount shift=0. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define INSTRUCTIONS_PER_TICK 40u /* one a nanosecond, and SysTick counts at 25 MHz */

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, SYS_EXIT = 0x18 };

extern uint32_t stack_used(void);

static inline int32_t call(uint32_t operation, const void *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

/* mode: of fopen, 1 "rb", 5 "wb". Negative: there is no such file. */
static inline int32_t open_file(const char *name, uint32_t mode)
{
    uint32_t length = 0, arguments[3];
    while (name[length])
        length++;
    arguments[0] = (uint32_t)name;
    arguments[1] = mode;
    arguments[2] = length;
    return call(SYS_OPEN, arguments);
}

static inline int read_file(int32_t file, void *bytes, uint32_t count)
{
    uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, count};
    return call(SYS_READ, arguments) == 0; /* how many were not read */
}

static inline int write_file(void *file, const void *bytes, uint32_t count)
{
    uint32_t arguments[3] = {*(uint32_t *)file, (uint32_t)bytes, count};
    return call(SYS_WRITE, arguments) != 0;
}

static inline void close_file(int32_t file)
{
    call(SYS_CLOSE, &file);
}

static inline void say(const char *name, uint32_t value)
{
    char line[12];
    char *at = line + sizeof line - 1;
    *at = '\0';
    *--at = '\n';
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    call(SYS_WRITE0, name);
    call(SYS_WRITE0, " ");
    call(SYS_WRITE0, at);
}

static inline void start_counting(void)
{
    SYST_CSR = 0;
    SYST_RVR = 0xFFFFFFu;
    SYST_CVR = 0;
    SYST_CSR = 5; /* on, of the processor's clock */
}

static inline uint32_t instructions(void)
{
    return (0xFFFFFFu - SYST_CVR) * INSTRUCTIONS_PER_TICK;
}

static inline void end(uint32_t error)
{
    say("error", error);
    call(SYS_EXIT, (const void *)(error ? 0x20024u : 0x20026u));
}

#endif
