/* A stand-in of what examples/zephyr calls: zephyr/storage/flash_map.h. */
#ifndef ZEPHYR_FLASH_MAP_H
#define ZEPHYR_FLASH_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct flash_area {
    size_t fa_size;
};

#define FIXED_PARTITION_ID(label) 1

int flash_area_open(uint8_t id, const struct flash_area **area);
int flash_area_read(const struct flash_area *area, off_t offset, void *bytes, size_t count);
int flash_area_write(const struct flash_area *area, off_t offset, const void *bytes, size_t count);
int flash_area_erase(const struct flash_area *area, off_t offset, size_t count);

#endif
