/* A class-balanced reservoir of images: ff_replay.h. */

#include "ff_replay.h"

#include <string.h>

static uint32_t image_bytes(const struct ff_net *net)
{
    return (uint32_t)(net->model->channels * net->model->height * net->model->width);
}

/* From 0 to `below` - 1: xorshift (Marsaglia 2003). */
static uint32_t drawn(struct ff_replay *replay, uint32_t below)
{
    replay->random ^= replay->random << 13;
    replay->random ^= replay->random >> 17;
    replay->random ^= replay->random << 5;
    return replay->random % below;
}

static uint32_t stored(const struct ff_replay *replay, int32_t label)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < replay->count; i++)
        count += replay->labels[i] == label;
    return count;
}

/* The place of one of the class's images, drawn at random among so many. */
static uint32_t one_of(struct ff_replay *replay, int32_t label, uint32_t count)
{
    uint32_t left = drawn(replay, count), place = 0;
    while (replay->labels[place] != label || left--)
        place++;
    return place;
}

void ff_replay_offer(const struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label)
{
    uint32_t place = replay->count, most = 0, own, seen;
    int32_t largest = label;
    if (replay->room == 0 || label < 0 || label >= net->classes || label > 255)
        return;
    seen = ++replay->seen[label];
    own = stored(replay, label);
    if (replay->count < replay->room) {
        replay->count++;
    } else {
        for (int32_t p = 0; p < net->classes; p++) {
            uint32_t count = stored(replay, p);
            if (count > most) {
                most = count;
                largest = p;
            }
        }
        if (own == most)
            largest = label;
        if (largest == label && drawn(replay, seen) >= own)
            return;
        place = one_of(replay, largest, most);
    }
    memcpy(replay->images + place * image_bytes(net), image, image_bytes(net));
    replay->labels[place] = (uint8_t)label;
}

enum ff_error ff_learn_replayed(
    struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label, int32_t others)
{
    enum ff_error error = ff_learn(net, image, label);
    for (int32_t i = 0; error == FF_OK && replay->count && i < others; i++) {
        uint32_t place = drawn(replay, replay->count);
        error = ff_learn(net, replay->images + place * image_bytes(net), replay->labels[place]);
    }
    if (error == FF_OK)
        ff_replay_offer(net, replay, image, label);
    return error;
}
