/* A buffer of images in flash, as a log: ff_replay_flash.h. */

#include "ff_replay_flash.h"

#include <string.h>

#define MAGIC 0x31524646u /* "FFR1" */
#define NO_SECTOR 0xffffffffu

struct mark {            /* of a sector, programmed behind the records that are copied to it */
    uint32_t magic, generation, check;
};

struct record {          /* before an image */
    uint32_t sequence, seen, what, check; /* what: label, and the place from bit 8 on */
};

static uint32_t record_bytes(const struct ff_replay_flash *f)
{
    return FF_REPLAY_RECORD(f->image, f->flash->unit);
}

static uint32_t records(const struct ff_replay_flash *f)
{
    return FF_REPLAY_A_SECTOR(f->image, f->flash->unit, f->flash->sector);
}

static uint32_t sector_at(const struct ff_replay_flash *f, uint32_t sector)
{
    return f->begin + sector * f->flash->sector;
}

/* Offset of a record; they are numbered through all sectors. */
static uint32_t record_at(const struct ff_replay_flash *f, uint32_t number)
{
    uint32_t sector = number / records(f);
    return sector_at(f, sector) + FF_REPLAY_MARK(f->flash->unit) + number % records(f) * record_bytes(f);
}

static int read_flash(const struct ff_replay_flash *f, uint32_t offset, void *bytes, uint32_t count)
{
    return f->flash->read(f->flash->context, offset, bytes, count);
}

/* Program two pieces, one behind the other, unit by unit; what is left of the last unit is 0xff. */
static int program(const struct ff_replay_flash *f, uint32_t offset, const void *head, uint32_t head_bytes,
                   const uint8_t *rest, uint32_t rest_bytes)
{
    const uint8_t *first = (const uint8_t *)head;
    uint8_t unit[FF_FLASH_LARGEST_UNIT];
    uint32_t size = f->flash->unit;
    for (uint32_t at = 0; at < head_bytes + rest_bytes; at += size, offset += size) {
        for (uint32_t i = 0; i < size; i++) {
            uint32_t n = at + i;
            unit[i] = n < head_bytes ? first[n] : n < head_bytes + rest_bytes ? rest[n - head_bytes] : 0xff;
        }
        if (f->flash->program(f->flash->context, offset, unit, size) != 0)
            return 1;
    }
    return 0;
}

/* ------------------------------------------------ what is there ------------------------------------------------ */

/* Generation of a sector; 0: it has no mark, and nothing in it counts. */
static uint32_t generation_of(const struct ff_replay_flash *f, uint32_t sector)
{
    struct mark mark;
    if (read_flash(f, sector_at(f, sector), &mark, sizeof mark) != 0)
        return 0;
    return mark.magic == MAGIC && mark.check == ff_crc32(0, &mark, 8) ? mark.generation : 0;
}

/* Whether a record is whole, of a place that there is and of a class that is known. */
static int is_record(const struct ff_net *net, const struct ff_replay_flash *f, uint32_t number, struct record *r)
{
    uint8_t piece[64];
    uint32_t at = record_at(f, number), check, label;
    if (read_flash(f, at, r, sizeof *r) != 0)
        return 0;
    label = r->what & 255u;
    if (r->what >> 8 >= f->replay->room || label == FF_REPLAY_NONE || label >= (uint32_t)net->classes)
        return 0;
    check = ff_crc32(0, r, 12);
    for (uint32_t done = 0; done < f->image; done += (uint32_t)sizeof piece) {
        uint32_t count = f->image - done < sizeof piece ? f->image - done : (uint32_t)sizeof piece;
        if (read_flash(f, at + (uint32_t)sizeof *r + done, piece, count) != 0)
            return 0;
        check = ff_crc32(check, piece, count);
    }
    return check == r->check;
}

/* Whether a record is newer than the one that is known of its place; of two copies the one in the newer sector is. */
static int is_newer(const struct ff_replay_flash *f, const struct record *r, uint32_t generation, uint32_t known)
{
    struct record other;
    if (read_flash(f, record_at(f, known), &other, sizeof other) != 0 || r->sequence > other.sequence)
        return 1;
    return r->sequence == other.sequence && generation > generation_of(f, known / records(f));
}

static void find(const struct ff_net *net, struct ff_replay_flash *f, uint32_t number, uint32_t generation)
{
    struct ff_replay *replay = f->replay;
    struct record r;
    uint32_t place, label;
    if (!is_record(net, f, number, &r))
        return;
    place = r.what >> 8;
    label = r.what & 255u;
    if (r.sequence >= f->sequence)
        f->sequence = r.sequence + 1;
    if (r.seen > replay->seen[label])
        replay->seen[label] = r.seen;
    if (replay->labels[place] != FF_REPLAY_NONE && !is_newer(f, &r, generation, f->at[place]))
        return;
    replay->labels[place] = (uint8_t)label;
    f->at[place] = (uint16_t)number;
    if (place >= replay->count)
        replay->count = place + 1;
}

/* Images that count in a sector. */
static uint32_t counting(const struct ff_replay_flash *f, uint32_t sector)
{
    uint32_t count = 0;
    for (uint32_t place = 0; place < f->replay->count; place++)
        count += f->replay->labels[place] != FF_REPLAY_NONE && f->at[place] / records(f) == sector;
    return count;
}

/* ------------------------------------------------ writing ------------------------------------------------ */

/* The sector but one in which the fewest images count, and how many. */
static uint32_t emptiest(const struct ff_replay_flash *f, uint32_t but, uint32_t *fewest)
{
    uint32_t found = NO_SECTOR;
    for (uint32_t sector = 0; sector < f->sectors; sector++) {
        uint32_t count = sector == but ? 0 : counting(f, sector);
        if (sector != but && (found == NO_SECTOR || count < *fewest)) {
            found = sector;
            *fewest = count;
        }
    }
    return found;
}

/* A record from one offset to another, as it is. */
static int copy(struct ff_replay_flash *f, uint32_t from, uint32_t to)
{
    uint8_t unit[FF_FLASH_LARGEST_UNIT];
    for (uint32_t at = 0; at < record_bytes(f); at += f->flash->unit)
        if (read_flash(f, from + at, unit, f->flash->unit) != 0 ||
            f->flash->program(f->flash->context, to + at, unit, f->flash->unit) != 0)
            return 1;
    return 0;
}

/* An empty sector is erased and opened. Where there is no other empty one, the images that count in the emptiest of the
 * others come along. An empty one is always there, unless images were damaged: then those in the emptiest are lost. */
static int open_sector(struct ff_replay_flash *f)
{
    struct ff_replay *replay = f->replay;
    struct mark mark = {MAGIC, ++f->generation, 0};
    uint32_t fewest = 0, left = 0, number, empty = emptiest(f, NO_SECTOR, &fewest), from;
    for (uint32_t place = 0; fewest && place < replay->count; place++)
        if (f->at[place] / records(f) == empty)
            replay->labels[place] = FF_REPLAY_NONE;
    from = emptiest(f, empty, &left);
    f->open = NO_SECTOR;
    if (f->flash->erase(f->flash->context, sector_at(f, empty)) != 0)
        return 1;
    number = empty * records(f);
    for (uint32_t place = 0; left && place < replay->count; place++)
        if (replay->labels[place] != FF_REPLAY_NONE && f->at[place] / records(f) == from &&
            copy(f, record_at(f, f->at[place]), record_at(f, number++)) != 0)
            return 1;
    mark.check = ff_crc32(0, &mark, 8);
    if (program(f, sector_at(f, empty), &mark, sizeof mark, NULL, 0) != 0)
        return 1;
    f->open = empty;
    f->next = number = empty * records(f);
    for (uint32_t place = 0; left && place < replay->count; place++)
        if (replay->labels[place] != FF_REPLAY_NONE && f->at[place] / records(f) == from)
            f->at[place] = (uint16_t)f->next++;
    return 0;
}

static int store(void *context, uint32_t place, uint8_t label, const uint8_t *image)
{
    struct ff_replay_flash *f = (struct ff_replay_flash *)context;
    struct record r;
    if ((f->open == NO_SECTOR || f->next == (f->open + 1) * records(f)) && open_sector(f) != 0)
        return 1;
    r.sequence = f->sequence++;
    r.seen = f->replay->seen[label];
    r.what = place << 8 | label;
    r.check = ff_crc32(ff_crc32(0, &r, 12), image, f->image);
    if (program(f, record_at(f, f->next++), &r, sizeof r, image, f->image) != 0)
        return 1;
    f->at[place] = (uint16_t)(f->next - 1);
    return 0;
}

static int fetch(void *context, uint32_t place, uint8_t *image)
{
    const struct ff_replay_flash *f = (const struct ff_replay_flash *)context;
    return read_flash(f, record_at(f, f->at[place]) + (uint32_t)sizeof(struct record), image, f->image);
}

enum ff_error ff_replay_flash_begin(
    const struct ff_net *net, struct ff_replay *replay, struct ff_replay_flash *images)
{
    const struct ff_model *m = net->model;
    images->replay = replay;
    images->image = (uint32_t)(m->channels * m->height * m->width);
    images->open = NO_SECTOR;
    images->sequence = images->generation = 1;
    replay->fetch = fetch;
    replay->store = store;
    replay->context = images;
    replay->count = 0;
    memset(replay->labels, FF_REPLAY_NONE, replay->room);
    memset(replay->seen, 0, (size_t)m->rows * sizeof *replay->seen);
    if (FF_REPLAY_MARK(images->flash->unit) + record_bytes(images) > images->flash->sector ||
        images->sectors < replay->room / records(images) + 2 || images->sectors > 0xffffu / records(images))
        return FF_ERROR_IO;
    for (uint32_t sector = 0; sector < images->sectors; sector++) {
        uint32_t generation = generation_of(images, sector);
        for (uint32_t n = 0; generation && n < records(images); n++)
            find(net, images, sector * records(images) + n, generation);
        if (generation >= images->generation)
            images->generation = generation + 1;
    }
    return FF_OK;
}
