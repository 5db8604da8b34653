/* A stand-in of what examples/zephyr calls: zephyr/kernel.h. */
#ifndef ZEPHYR_KERNEL_H
#define ZEPHYR_KERNEL_H

void printk(const char *format, ...);

#endif
