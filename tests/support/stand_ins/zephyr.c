/* A board that runs examples/zephyr, whose main is app_main here, on this machine: twice, with the same flash. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <zephyr/kernel.h>
#include <zephyr/storage/flash_map.h>

int app_main(void);

static unsigned char flash[1 << 20];
static const struct flash_area whole = {sizeof flash};

int flash_area_open(uint8_t id, const struct flash_area **area)
{
    *area = &whole;
    return id != 1;
}

int flash_area_read(const struct flash_area *area, off_t offset, void *bytes, size_t count)
{
    memcpy(bytes, flash + offset, count);
    return (size_t)offset + count > area->fa_size;
}

int flash_area_write(const struct flash_area *area, off_t offset, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        flash[(size_t)offset + i] &= ((const unsigned char *)bytes)[i];
    return (size_t)offset + count > area->fa_size;
}

int flash_area_erase(const struct flash_area *area, off_t offset, size_t count)
{
    memset(flash + offset, 0xff, count);
    return (size_t)offset + count > area->fa_size;
}

void printk(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

int main(void)
{
    memset(flash, 0xff, sizeof flash);
    return app_main() || app_main();
}
