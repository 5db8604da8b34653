/* Images that are learned again between new ones, so that old classes are not forgotten: a reservoir in which every class
 * has as many as the others (class-balanced reservoir sampling: Chrysakis and Moens 2020), in memory that the caller
 * gives. Off unless FF_REPLAY_IMAGES is defined, for the compiler, before model.h is read; nothing else needs it. It is
 * no part of a state: what is stored in RAM is gone when power is. ff_replay_flash.h keeps images in flash instead.
 *
 *     static uint8_t stored[FF_REPLAY_IMAGES * FF_IMAGE_BYTES], labels[FF_REPLAY_IMAGES], moved[FF_IMAGE_BYTES];
 *     static uint32_t seen[FF_ROWS];
 *     static struct ff_replay replay = {.images = stored, .labels = labels, .seen = seen, .room = FF_REPLAY_IMAGES,
 *                                       .random = 1, .moved = moved, .shift = 1};
 *
 *     ff_learn_replayed(&net, &replay, image, label, 2);     a step from it, then steps from two that are stored
 *     ff_rehearse(&net, &replay, 100);                       at rest
 */
#ifndef FF_REPLAY_H
#define FF_REPLAY_H

#include "ffedge.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FF_REPLAY_NONE 255 /* in place of a label: no image is there */

struct ff_replay {
    uint8_t *images;   /* `room` images; where these are in flash, one */
    uint8_t *labels;   /* of each, below FF_REPLAY_NONE */
    uint32_t *seen;    /* of each row: how many were offered; 0 to begin with */
    uint32_t room;
    uint32_t count;    /* places that were taken; 0 to begin with */
    uint32_t random;   /* any number but 0 to begin with */
    uint8_t *moved;    /* one image, where `shift` is not 0 */
    int32_t shift;     /* a stored image is learned moved by up to so many pixels, each way; 0 comes in at the edges */
    /* Where images are in flash, what reads and writes one; otherwise NULL. 0 is success. */
    int (*fetch)(void *context, uint32_t place, uint8_t *image);
    int (*store)(void *context, uint32_t place, uint8_t label, const uint8_t *image);
    void *context;
};

/* An image may be stored, in place of another one where there is no room: of the class with the most, or, where that is
 * its own, of its own class with the odds by which each of them is as likely to be there. FF_ERROR_IO: flash failed,
 * and what was stored still is. */
enum ff_error ff_replay_offer(
    const struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label);

/* So many steps from stored images, drawn at random; of none, none. */
enum ff_error ff_rehearse(struct ff_net *net, struct ff_replay *replay, int32_t steps);

/* A step from an image with its label, then so many from stored ones; then it may be stored. */
enum ff_error ff_learn_replayed(
    struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label, int32_t others);

#ifdef __cplusplus
}
#endif
#endif
