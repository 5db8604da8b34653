/* The images of ff_replay.h in flash, over the callbacks of ff_flash.h: whatever write power is lost at, every place of
 * the buffer holds the image that was there before, or the new one, whole.
 *
 * Images are records, written one behind the other: {sequence, how many of the class were offered, place and label,
 * checksum of that and of the image}, then the image. Of the records of a place the newest counts. A sector begins with
 * a mark. When the open one is full, the records that still count in another are copied to an empty one, behind which
 * its mark is programmed; only sectors in which no record counts any more are erased.
 *
 *     static uint8_t image[FF_IMAGE_BYTES], labels[FF_REPLAY_IMAGES], moved[FF_IMAGE_BYTES];
 *     static uint16_t at[FF_REPLAY_IMAGES];
 *     static uint32_t seen[FF_ROWS];
 *     static struct ff_replay replay = {.images = image, .labels = labels, .seen = seen, .room = FF_REPLAY_IMAGES,
 *                                       .random = 1, .moved = moved, .shift = 1};
 *     static struct ff_replay_flash images = {.flash = &flash, .begin = behind the two slots: 2 * flash.slot,
 *         .sectors = FF_REPLAY_SECTORS(FF_REPLAY_IMAGES, FF_IMAGE_BYTES, FF_FLASH_UNIT, FF_FLASH_SECTOR), .at = at};
 *
 *     ff_replay_flash_begin(&net, &replay, &images);      after ff_flash_load: only images of known classes are found
 *
 * Then ff_learn_replayed, ff_rehearse and ff_replay_offer store and read there. Define FF_REPLAY_IN_FLASH beside
 * FF_REPLAY_IMAGES, so that model.h counts the RAM that is left: three bytes an image, and two images. */
#ifndef FF_REPLAY_FLASH_H
#define FF_REPLAY_FLASH_H

#include "ff_flash.h"
#include "ff_replay.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a mark and of a record, a whole number of units each; records of a sector; sectors for so many images:
 * one is empty, and of the others one has room for a new image. */
#define FF_REPLAY_MARK(unit) ((12 + (unit) - 1) / (unit) * (unit))
#define FF_REPLAY_RECORD(image, unit) ((16 + (image) + (unit) - 1) / (unit) * (unit))
#define FF_REPLAY_A_SECTOR(image, unit, sector) (((sector) - FF_REPLAY_MARK(unit)) / FF_REPLAY_RECORD(image, unit))
#define FF_REPLAY_SECTORS(images, image, unit, sector) \
    ((images) / FF_REPLAY_A_SECTOR(image, unit, sector) + 2)

struct ff_replay_flash {
    const struct ff_flash *flash;
    uint32_t begin;      /* offset of the first sector */
    uint32_t sectors;    /* FF_REPLAY_SECTORS at least */
    uint16_t *at;        /* which record is at each place: `room` of them */
    /* What ff_replay_flash_begin sets: */
    struct ff_replay *replay;
    uint32_t image;      /* bytes of one */
    uint32_t open, next; /* the sector that is written to, and its next record */
    uint32_t sequence, generation;
};

/* Find the images that are in flash, and keep others there from now on. FF_ERROR_IO: a sector has no room for an image, or
 * there are too few sectors, or more than 65,535 records of them. What cannot be read is not there. */
enum ff_error ff_replay_flash_begin(
    const struct ff_net *net, struct ff_replay *replay, struct ff_replay_flash *images);

#ifdef __cplusplus
}
#endif
#endif
