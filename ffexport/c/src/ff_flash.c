/* Two slots in flash, and a mark that commits: ff_flash.h. */

#include "ff_flash.h"

#include <string.h>

#define MAGIC 0x31534646u /* "FFS1" */

struct mark {
    uint32_t magic, sequence, bytes, content, check; /* the last two are CRC-32 of the file, and of what is before */
};

struct slot {              /* a slot while it is written or read */
    const struct ff_flash *flash;
    uint32_t at, bytes;    /* where its file begins; bytes of it so far */
    uint32_t check;        /* CRC-32 of these */
    uint8_t unit[FF_FLASH_LARGEST_UNIT];
};

uint32_t ff_crc32(uint32_t value, const void *bytes, uint32_t count)
{
    const uint8_t *from = (const uint8_t *)bytes;
    value = ~value;
    for (uint32_t i = 0; i < count; i++) {
        value ^= from[i];
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1u ? 0xedb88320u : 0u);
    }
    return ~value;
}

static uint32_t file_of(const struct ff_flash *flash, uint32_t slot)
{
    return slot * flash->slot + FF_FLASH_HEAD(flash->unit);
}

/* Whether a slot is whole: its mark, and the file that it vouches for. */
static int is_whole(const struct ff_flash *flash, uint32_t slot, struct mark *mark)
{
    uint8_t piece[64];
    uint32_t check = 0;
    if (flash->read(flash->context, slot * flash->slot, mark, sizeof *mark) != 0)
        return 0;
    if (mark->magic != MAGIC || mark->check != ff_crc32(0, mark, sizeof *mark - sizeof mark->check))
        return 0;
    if (mark->bytes > flash->slot - FF_FLASH_HEAD(flash->unit))
        return 0;
    for (uint32_t at = 0; at < mark->bytes; at += (uint32_t)sizeof piece) {
        uint32_t count = mark->bytes - at < sizeof piece ? mark->bytes - at : (uint32_t)sizeof piece;
        if (flash->read(flash->context, file_of(flash, slot) + at, piece, count) != 0)
            return 0;
        check = ff_crc32(check, piece, count);
    }
    return check == mark->content;
}

/* The newer of the slots that are whole, and its mark; 2: neither is. */
static uint32_t newest(const struct ff_flash *flash, struct mark *mark)
{
    struct mark marks[2] = {{0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}};
    int first = is_whole(flash, 0, &marks[0]), second = is_whole(flash, 1, &marks[1]);
    uint32_t slot = second && (!first || marks[1].sequence - marks[0].sequence < 0x80000000u) ? 1u : 0u;
    *mark = marks[slot];
    return first || second ? slot : 2u;
}

static int program_unit(struct slot *s, uint32_t at)
{
    return s->flash->program(s->flash->context, at, s->unit, s->flash->unit);
}

static int write_piece(void *context, const void *bytes, uint32_t count)
{
    struct slot *s = (struct slot *)context;
    const uint8_t *from = (const uint8_t *)bytes;
    uint32_t unit = s->flash->unit, room = s->flash->slot - FF_FLASH_HEAD(unit);
    if (count > room - s->bytes)
        return 1;
    s->check = ff_crc32(s->check, bytes, count);
    for (uint32_t i = 0; i < count; i++) {
        s->unit[s->bytes++ % unit] = from[i];
        if (s->bytes % unit == 0 && program_unit(s, s->at + s->bytes - unit) != 0)
            return 1;
    }
    return 0;
}

/* Program a mark, unit by unit. */
static int commit(struct slot *s, const struct mark *mark, uint32_t at)
{
    const uint8_t *from = (const uint8_t *)mark;
    uint32_t unit = s->flash->unit;
    for (uint32_t done = 0; done < sizeof *mark; done += unit) {
        uint32_t count = sizeof *mark - done < unit ? (uint32_t)sizeof *mark - done : unit;
        memset(s->unit, 0xff, sizeof s->unit);
        memcpy(s->unit, from + done, count);
        if (program_unit(s, at + done) != 0)
            return 1;
    }
    return 0;
}

enum ff_error ff_flash_save(const struct ff_flash *flash, struct ff_net *net)
{
    struct mark mark;
    struct slot s;
    uint32_t last = newest(flash, &mark), slot = last == 0 ? 1u : 0u, begin = slot * flash->slot;
    enum ff_error error;
    memset(&s, 0, sizeof s);
    s.flash = flash;
    s.at = file_of(flash, slot);
    for (uint32_t at = 0; at < flash->slot; at += flash->sector)
        if (flash->erase(flash->context, begin + at) != 0)
            return FF_ERROR_IO;
    error = ff_save(net, write_piece, &s);
    if (error != FF_OK)
        return error;
    if (s.bytes % flash->unit) { /* the rest of the last unit */
        memset(s.unit + s.bytes % flash->unit, 0xff, flash->unit - s.bytes % flash->unit);
        if (program_unit(&s, s.at + s.bytes / flash->unit * flash->unit) != 0)
            return FF_ERROR_IO;
    }
    mark.sequence = last == 2 ? 0 : mark.sequence + 1;
    mark.magic = MAGIC;
    mark.bytes = s.bytes;
    mark.content = s.check;
    mark.check = ff_crc32(0, &mark, sizeof mark - sizeof mark.check);
    return commit(&s, &mark, begin) != 0 ? FF_ERROR_IO : FF_OK;
}

static int read_piece(void *context, uint32_t offset, void *bytes, uint32_t count)
{
    const struct slot *s = (const struct slot *)context;
    return s->flash->read(s->flash->context, s->at + offset, bytes, count);
}

enum ff_error ff_flash_load(const struct ff_flash *flash, struct ff_net *net)
{
    struct mark mark;
    struct slot s;
    uint32_t slot = newest(flash, &mark);
    if (slot == 2)
        return FF_ERROR_EMPTY;
    s.flash = flash;
    s.at = file_of(flash, slot);
    return ff_load(net, read_piece, &s, mark.bytes);
}
