/* Images that are learned again between new ones, so that old classes are not forgotten: a reservoir in which every class
 * has as many as the others (class-balanced reservoir sampling: Chrysakis and Moens 2020), in memory that the caller
 * gives. Off unless FF_REPLAY_IMAGES is defined, for the compiler, before model.h is read; nothing else needs it. It is
 * no part of a state: what is stored is gone when power is.
 *
 *     static uint8_t stored[FF_REPLAY_IMAGES * FF_IMAGE_BYTES], labels[FF_REPLAY_IMAGES];
 *     static uint32_t seen[FF_ROWS];
 *     static struct ff_replay replay = {stored, labels, seen, FF_REPLAY_IMAGES, 0, 1};
 *
 *     ff_learn_replayed(&net, &replay, image, label, 2);     a step from it, then steps from two that are stored
 */
#ifndef FF_REPLAY_H
#define FF_REPLAY_H

#include "ffedge.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ff_replay {
    uint8_t *images;   /* `room` images */
    uint8_t *labels;   /* of each, below 256 */
    uint32_t *seen;    /* of each row: how many were offered; 0 to begin with */
    uint32_t room;
    uint32_t count;    /* of those that are stored; 0 to begin with */
    uint32_t random;   /* any number but 0 to begin with */
};

/* An image may be stored, in place of another one where there is no room: of the class with the most, or, where that is
 * its own, of its own class with the odds by which each of them is as likely to be there. */
void ff_replay_offer(const struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label);

/* A step from an image with its label, then so many from stored ones, drawn at random; then it may be stored. */
enum ff_error ff_learn_replayed(
    struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label, int32_t others);

#ifdef __cplusplus
}
#endif
#endif
