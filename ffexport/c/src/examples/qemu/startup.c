/* Start of a Cortex-M program: vectors, memory, FPU, and a stack painted so that its deepest point can be read. */
#include <stdint.h>

#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define PAINT 0xA5A5A5A5u

extern uint32_t data_load, data_start, data_end, bss_start, bss_end, stack_limit, stack_top;
extern int main(void);
uint32_t stack_used(void);
void reset(void);
void fault(void);

uint32_t stack_used(void)
{
    const uint32_t *word = &stack_limit;
    while (word < &stack_top && *word == PAINT)
        word++;
    return (uint32_t)((const char *)&stack_top - (const char *)word);
}

/* Ends QEMU with an error: semihosting, SYS_EXIT, "internal error". */
void fault(void)
{
    register uint32_t operation __asm__("r0") = 0x18, reason __asm__("r1") = 0x20024;
    __asm__ volatile("bkpt 0xAB" : : "r"(operation), "r"(reason) : "memory");
    for (;;) {
    }
}

void reset(void)
{
    uint32_t *word, *from = &data_load;
    for (word = &stack_limit; word < (uint32_t *)__builtin_frame_address(0) - 16; word++)
        *word = PAINT;
    for (word = &data_start; word < &data_end; word++)
        *word = *from++;
    for (word = &bss_start; word < &bss_end; word++)
        *word = 0;
    CPACR |= 0xFu << 20; /* the FPU is off after reset */
    __asm__ volatile("dsb\n isb");
    main();
    fault();
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))&stack_top, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault};
