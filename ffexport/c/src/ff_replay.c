/* A class-balanced reservoir of images: ff_replay.h. */

#include "ff_replay.h"

#include <string.h>

#define NOWHERE 0xffffffffu

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

/* Where an image of a class goes, or NOWHERE. */
static uint32_t place_of(const struct ff_net *net, struct ff_replay *replay, int32_t label)
{
    uint32_t most = 0, own = stored(replay, label), seen = ++replay->seen[label];
    uint32_t empty = stored(replay, FF_REPLAY_NONE);
    int32_t largest = label;
    if (empty)
        return one_of(replay, FF_REPLAY_NONE, empty);
    if (replay->count < replay->room)
        return replay->count;
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
        return NOWHERE;
    return one_of(replay, largest, most);
}

enum ff_error ff_replay_offer(
    const struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label)
{
    uint32_t place;
    if (replay->room == 0 || label < 0 || label >= net->classes || label >= FF_REPLAY_NONE)
        return FF_OK;
    place = place_of(net, replay, label);
    if (place == NOWHERE)
        return FF_OK;
    if (!replay->store)
        memcpy(replay->images + place * image_bytes(net), image, image_bytes(net));
    else if (replay->store(replay->context, place, (uint8_t)label, image) != 0)
        return FF_ERROR_IO;
    replay->labels[place] = (uint8_t)label;
    if (place == replay->count)
        replay->count++;
    return FF_OK;
}

/* The image in `moved`, by some rows and columns. */
static void move(const struct ff_net *net, struct ff_replay *replay, const uint8_t *image)
{
    int32_t h = net->model->height, w = net->model->width, sides = 2 * replay->shift + 1;
    int32_t down = (int32_t)drawn(replay, (uint32_t)sides) - replay->shift;
    int32_t right = (int32_t)drawn(replay, (uint32_t)sides) - replay->shift;
    uint8_t *to = replay->moved;
    for (int32_t c = 0; c < net->model->channels; c++, image += h * w)
        for (int32_t y = -down; y < h - down; y++)
            for (int32_t x = -right; x < w - right; x++)
                *to++ = y < 0 || y >= h || x < 0 || x >= w ? 0 : image[y * w + x];
}

enum ff_error ff_rehearse(struct ff_net *net, struct ff_replay *replay, int32_t steps)
{
    enum ff_error error = FF_OK;
    if (stored(replay, FF_REPLAY_NONE) == replay->count)
        return FF_OK;
    for (int32_t i = 0; error == FF_OK && i < steps; i++) {
        uint32_t place = drawn(replay, replay->count);
        const uint8_t *image = replay->images;
        while (replay->labels[place] == FF_REPLAY_NONE)
            place = (place + 1) % replay->count;
        if (!replay->fetch)
            image += place * image_bytes(net);
        else if (replay->fetch(replay->context, place, replay->images) != 0)
            return FF_ERROR_IO;
        if (replay->shift > 0) {
            move(net, replay, image);
            image = replay->moved;
        }
        error = ff_learn(net, image, replay->labels[place]);
    }
    return error;
}

enum ff_error ff_learn_replayed(
    struct ff_net *net, struct ff_replay *replay, const uint8_t *image, int32_t label, int32_t others)
{
    enum ff_error error = ff_learn(net, image, label);
    if (error == FF_OK)
        error = ff_rehearse(net, replay, others);
    return error == FF_OK ? ff_replay_offer(net, replay, image, label) : error;
}
