/* What was learned, kept in flash: two slots, of which one is whole whenever power is lost.
 *
 * A slot is a state file behind a mark, which is programmed last: {magic, sequence, bytes, checksum of the file,
 * checksum of the mark}. Saving erases the older slot and writes there; loading takes the newer one that is whole. The
 * callbacks are the chip's: offsets are from the start of the first slot, and 0 is success.
 *
 *     static struct ff_flash flash = {read, program, erase, NULL, FF_FLASH_SECTOR, FF_FLASH_UNIT,
 *                                     FF_FLASH_SLOT(FF_STATE_BYTES, FF_FLASH_UNIT, FF_FLASH_SECTOR)};
 *
 *     ff_flash_load(&flash, &net);      FF_ERROR_EMPTY: nothing was saved yet
 *     ff_flash_save(&flash, &net);
 */
#ifndef FF_FLASH_H
#define FF_FLASH_H

#include "ffedge.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FF_FLASH_LARGEST_UNIT 256  /* bytes that are programmed at a time, at most */
#define FF_FLASH_MARK 20           /* bytes of a mark */

/* Bytes of a slot for a state of so many bytes. Its mark is a whole number of units, and it of sectors. */
#define FF_FLASH_HEAD(unit) ((FF_FLASH_MARK + (unit) - 1) / (unit) * (unit))
#define FF_FLASH_SLOT(state, unit, sector) \
    ((FF_FLASH_HEAD(unit) + (state) + (unit) + (sector) - 1) / (sector) * (sector))

struct ff_flash {
    int (*read)(void *context, uint32_t offset, void *bytes, uint32_t count);
    int (*program)(void *context, uint32_t offset, const void *bytes, uint32_t count); /* count: one unit */
    int (*erase)(void *context, uint32_t offset);                                      /* one sector */
    void *context;
    uint32_t sector; /* bytes that are erased at a time */
    uint32_t unit;   /* bytes that are programmed at a time, from 1 to FF_FLASH_LARGEST_UNIT */
    uint32_t slot;   /* bytes of each of the two slots, a whole number of sectors */
};

/* FF_ERROR_IO where a callback fails or a slot is too small; what was saved before is still there. */
enum ff_error ff_flash_save(const struct ff_flash *flash, struct ff_net *net);

/* The newer state that is whole, as ff_load takes it. FF_ERROR_EMPTY: there is none. */
enum ff_error ff_flash_load(const struct ff_flash *flash, struct ff_net *net);

/* CRC-32 (IEEE 802.3) of more bytes; `value`: of those before them, 0 to begin with. A bit at a time. */
uint32_t ff_crc32(uint32_t value, const void *bytes, uint32_t count);

#ifdef __cplusplus
}
#endif
#endif
