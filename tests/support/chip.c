/* A network in C as a process: commands come on stdin, answers go to stdout, both binary. Each arena is allocated in
 * its exact size, so that the sanitizers see whatever leaves it. `chip.py` is the other end. */
#include "ff_flash.h"
#include "ff_replay_flash.h"
#include "ffedge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct ff_model ff_model;
extern const struct ff_golden ff_golden_vectors;

struct memory {
    unsigned char *bytes;
    uint32_t count;
    int32_t calls; /* that succeed from now on; -1: all */
};

static struct ff_net net;
static unsigned char *arena;

static uint32_t image_bytes(void)
{
    return (uint32_t)(ff_model.channels * ff_model.height * ff_model.width);
}

static void get(void *bytes, size_t count)
{
    if (count && fread(bytes, 1, count, stdin) != count)
        exit(0);
}

static int32_t get_int(void)
{
    int32_t value;
    get(&value, sizeof value);
    return value;
}

static void give(const void *bytes, size_t count)
{
    if (count)
        fwrite(bytes, 1, count, stdout);
}

static void give_int(int32_t value)
{
    give(&value, sizeof value);
}

static unsigned char *get_bytes(uint32_t count)
{
    unsigned char *bytes = malloc(count ? count : 1);
    get(bytes, count);
    return bytes;
}

static int may(struct memory *m)
{
    return m->calls < 0 || m->calls-- > 0;
}

static int write_memory(void *context, const void *bytes, uint32_t count)
{
    struct memory *m = context;
    if (!may(m))
        return 1;
    m->bytes = realloc(m->bytes, m->count + count + 1);
    memcpy(m->bytes + m->count, bytes, count);
    m->count += count;
    return 0;
}

static int read_memory(void *context, uint32_t offset, void *bytes, uint32_t count)
{
    struct memory *m = context;
    if (!may(m) || offset > m->count || count > m->count - offset)
        return 1;
    memcpy(bytes, m->bytes + offset, count);
    return 0;
}

static void initialise(void)
{
    int32_t bytes = get_int(), shift = get_int(), version = get_int();
    struct ff_model model = ff_model;
    model.version = version;
    free(arena);
    arena = malloc((size_t)(bytes + shift));
    memset(arena, 0xa5, (size_t)(bytes + shift));
    give_int((int32_t)ff_init(&net, version == FF_VERSION ? &ff_model : &model, arena + shift, (size_t)bytes));
}

static void classify(int early)
{
    uint8_t *image = get_bytes(image_bytes());
    float *goodness = malloc((size_t)ff_model.rows * sizeof *goodness);
    int32_t label = -1, units = -1;
    enum ff_error error = early ? ff_classify_exit(&net, image, goodness, &label, &units)
                                : ff_classify(&net, image, goodness, &label);
    give_int((int32_t)error);
    give_int(label);
    give_int(units);
    give(goodness, (size_t)ff_model.rows * sizeof *goodness);
    free(goodness);
    free(image);
}

static void learn(int counting)
{
    int32_t label = get_int();
    uint8_t *image = get_bytes(image_bytes());
    give_int((int32_t)(counting ? ff_count(&net, image, label) : ff_learn(&net, image, label)));
    free(image);
}

static void new_class(void)
{
    uint32_t count = (uint32_t)get_int();
    int32_t label = -1;
    char *name = malloc(count + 1);
    get(name, count);
    name[count] = '\0';
    give_int((int32_t)ff_new_class(&net, name, &label));
    give_int(label);
    free(name);
}

static void save(void)
{
    struct memory m = {NULL, 0, get_int()};
    give_int((int32_t)ff_save(&net, write_memory, &m));
    give_int((int32_t)m.count);
    give(m.bytes, m.count);
    free(m.bytes);
}

static void load(void)
{
    struct memory m;
    m.calls = get_int();
    m.count = (uint32_t)get_int();
    m.bytes = get_bytes(m.count);
    give_int((int32_t)ff_load(&net, read_memory, &m, m.count));
    free(m.bytes);
}

static void golden(void)
{
    float worst;
    give_int((int32_t)ff_golden(&net, &ff_golden_vectors, &worst));
    give(&worst, sizeof worst);
}

static void weights(void)
{
    for (int32_t i = 0; i < net.model->tensor_count; i++) {
        const struct ff_tensor *t = &net.model->tensors[i];
        if (net.learns && t->ram != FF_FIXED && t->type <= FF_FLOAT16)
            give(net.arena + t->ram, (size_t)t->count * sizeof(float));
    }
}

static void told(void)
{
    give_int(net.classes);
    give_int((int32_t)net.updates);
    give_int((int32_t)net.examples);
    for (int32_t p = 0; p < net.classes; p++) {
        const char *name = ff_name(&net, p);
        give_int((int32_t)strlen(name));
        give(name, strlen(name));
    }
}

/* Flash that is a piece of memory: erased bytes are 0xff, programming clears bits, and after so many operations power
 * is lost in the middle of one. */
static struct {
    unsigned char *bytes;
    uint32_t size;
    int32_t left, part; /* operations that succeed; bytes of the one after them that still happen; left -1: all */
} chip;

static int flash_read(void *context, uint32_t offset, void *bytes, uint32_t count)
{
    (void)context;
    if (offset > chip.size || count > chip.size - offset)
        return 1;
    memcpy(bytes, chip.bytes + offset, count);
    return 0;
}

/* How much of an operation on `count` bytes happens. */
static uint32_t happens(uint32_t count)
{
    uint32_t part = chip.left > 0 ? count : chip.part < (int32_t)count ? (uint32_t)chip.part : count;
    if (chip.left < 0)
        return count;
    if (chip.left == 0)
        chip.part = 0;
    else
        chip.left--;
    return part;
}

static int flash_program(void *context, uint32_t offset, const void *bytes, uint32_t count)
{
    const struct ff_flash *flash = context;
    uint32_t lost = chip.left == 0, part = happens(count);
    if (count != flash->unit || offset % flash->unit || offset > chip.size - count)
        exit(2);
    for (uint32_t i = 0; i < part; i++)
        chip.bytes[offset + i] &= ((const unsigned char *)bytes)[i];
    return lost != 0;
}

static int flash_erase(void *context, uint32_t offset)
{
    const struct ff_flash *flash = context;
    uint32_t lost = chip.left == 0;
    if (offset % flash->sector || offset > chip.size - flash->sector)
        exit(2);
    memset(chip.bytes + offset, 0xff, happens(flash->sector));
    return lost != 0;
}

static struct ff_flash flash = {flash_read, flash_program, flash_erase, &flash, 0, 0, 0};

static void erased(uint32_t size)
{
    free(chip.bytes);
    chip.bytes = malloc(size);
    chip.size = size;
    chip.left = -1;
    memset(chip.bytes, 0xff, size);
}

static void new_flash(void)
{
    flash.sector = (uint32_t)get_int();
    flash.unit = (uint32_t)get_int();
    flash.slot = FF_FLASH_SLOT((uint32_t)get_int(), flash.unit, flash.sector);
    erased(2 * flash.slot);
    give_int((int32_t)flash.slot);
}

static void flash_save(void)
{
    chip.left = get_int();
    chip.part = get_int();
    give_int((int32_t)ff_flash_save(&flash, &net));
    chip.left = -1;
}

/* ---------------------------------------- replay, in RAM or in flash ---------------------------------------- */

static struct ff_replay replay;
static struct ff_replay_flash images = {&flash, 0, 0, NULL, NULL, 0, 0, 0, 0, 0};

/* Room for so many images, which are replayed as they are or moved; where there is a sector's size, in flash, behind the
 * first sector. Gives the number of sectors. */
static void new_replay(void)
{
    uint32_t room = (uint32_t)get_int();
    int32_t shift = get_int(), error = FF_OK;
    free(replay.images);
    free(replay.labels);
    free(replay.seen);
    free(replay.moved);
    free(images.at);
    replay.labels = malloc(room + 1);
    replay.seen = calloc((size_t)ff_model.rows, sizeof *replay.seen);
    replay.moved = malloc(image_bytes());
    images.at = malloc(room * sizeof *images.at + 1);
    replay.room = room;
    replay.count = 0;
    replay.shift = shift;
    replay.random = replay.random ? replay.random : 1; /* another reservoir draws otherwise */
    replay.fetch = NULL;
    replay.store = NULL;
    flash.sector = (uint32_t)get_int();
    flash.unit = (uint32_t)get_int();
    replay.images = malloc((flash.sector ? 1 : room) * image_bytes() + 1);
    if (flash.sector) {
        images.begin = flash.sector;
        images.sectors = FF_REPLAY_SECTORS(room, image_bytes(), flash.unit, flash.sector);
        erased((images.sectors + 1) * flash.sector);
        error = (int32_t)ff_replay_flash_begin(&net, &replay, &images);
    }
    give_int(error);
    give_int((int32_t)images.sectors);
}

/* What is stored: labels and images. */
static void stored(void)
{
    uint8_t *image = malloc(image_bytes());
    give_int((int32_t)replay.count);
    for (uint32_t i = 0; i < replay.count; i++) {
        if (!replay.fetch)
            memcpy(image, replay.images + i * image_bytes(), image_bytes());
        else if (replay.labels[i] != FF_REPLAY_NONE && replay.fetch(replay.context, i, image) != 0)
            exit(2);
        give(replay.labels + i, 1);
        give(image, image_bytes());
    }
    free(image);
}

/* A step and so many replayed; below 0: the image is offered alone. In flash power is lost as flash_save says. */
static void learn_replayed(void)
{
    int32_t others = get_int(), label = get_int();
    uint8_t *image;
    chip.left = get_int();
    chip.part = get_int();
    image = get_bytes(image_bytes());
    give_int((int32_t)(others < 0 ? ff_replay_offer(&net, &replay, image, label)
                                  : ff_learn_replayed(&net, &replay, image, label, others)));
    chip.left = -1;
    free(image);
}

static void scribble(void)
{
    uint32_t offset = (uint32_t)get_int(), count = (uint32_t)get_int();
    get(chip.bytes + offset, count);
    give_int(0);
}

int main(void)
{
    for (;;) {
        char command;
        get(&command, 1);
        switch (command) {
        case 'i': initialise(); break;
        case 'c': classify(0); break;
        case 'e': classify(1); break;
        case 'l': learn(0); break;
        case 'C': learn(1); break;
        case 'P': new_replay(); break;
        case 'p': learn_replayed(); break;
        case 'I': stored(); break;
        case 'B': give_int((int32_t)ff_replay_flash_begin(&net, &replay, &images)); break;
        case 'h': give_int((int32_t)ff_rehearse(&net, &replay, get_int())); break;
        case 'n': new_class(); break;
        case 's': save(); break;
        case 'L': load(); break;
        case 'g': golden(); break;
        case 'w': weights(); break;
        case 't': told(); break;
        case 'F': new_flash(); break;
        case 'S': flash_save(); break;
        case 'R': give_int((int32_t)ff_flash_load(&flash, &net)); break;
        case 'X': scribble(); break;
        case 'r': get(&net.rate, 4); get(&net.momentum, 4); net.frozen = get_int() != 0; give_int(0); break;
        default: return 1;
        }
        fflush(stdout);
    }
}
