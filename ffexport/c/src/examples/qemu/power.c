/* Power is lost at random writes to flash, on an emulated Cortex-M: at a loss the operation happens by half, and the core
 * is reset. Flash is a piece of RAM that no reset touches; all else begins anew, from the vectors. After each reset what
 * is in flash has to be the state that was acknowledged last, or the one that was being saved, whole.
 *
 *     make run PROGRAM=power MORE=-DLOSSES=200
 */
#include "ff_flash.h"
#include "model.h"
#include "semihosting.h"

#include <string.h>

#define AIRCR (*(volatile uint32_t *)0xE000ED0Cu)
#define SYSTEM_RESET 0x05FA0004u
#define BEGUN 0x46460001u
#define SECTOR 1024u
#define UNIT 16u
#define SLOT FF_FLASH_SLOT(FF_STATE_BYTES, UNIT, SECTOR)

#ifndef LOSSES
#define LOSSES 20
#endif

extern uint32_t stack_used(void);

static __attribute__((section(".noinit"))) struct {
    uint32_t begun, random, left; /* operations until power is lost */
    uint32_t losses, older, newer, saved;
    uint32_t acknowledged, tried; /* checksums of what was learned */
    uint8_t flash[2 * SLOT];
} kept;

static uint32_t arena[FF_ARENA_WORDS];
static struct ff_net net;

static uint32_t drawn(uint32_t below)
{
    kept.random ^= kept.random << 13;
    kept.random ^= kept.random >> 17;
    kept.random ^= kept.random << 5;
    return kept.random % below;
}

static void require(int right, uint32_t error)
{
    if (!right)
        end(error);
}

/* Power goes when an operation is half done. */
static void half_done(void)
{
    kept.losses++;
    AIRCR = SYSTEM_RESET;
    for (;;) {
    }
}

static int read_flash(void *context, uint32_t offset, void *bytes, uint32_t count)
{
    (void)context;
    memcpy(bytes, kept.flash + offset, count);
    return 0;
}

static int program(void *context, uint32_t offset, const void *bytes, uint32_t count)
{
    int lost = kept.left-- == 0;
    (void)context;
    for (uint32_t i = 0; i < (lost ? drawn(count + 1) : count); i++)
        kept.flash[offset + i] &= ((const uint8_t *)bytes)[i];
    if (lost)
        half_done();
    return 0;
}

static int erase(void *context, uint32_t offset)
{
    int lost = kept.left-- == 0;
    (void)context;
    memset(kept.flash + offset, 0xff, lost ? drawn(SECTOR + 1) : SECTOR);
    if (lost)
        half_done();
    return 0;
}

static const struct ff_flash flash = {read_flash, program, erase, NULL, SECTOR, UNIT, SLOT};

/* Of every tensor that learns. */
static uint32_t checksum(void)
{
    uint32_t sum = 1;
    for (int32_t i = 0; i < ff_model.tensor_count; i++) {
        const struct ff_tensor *t = &ff_model.tensors[i];
        for (int32_t n = 0; t->ram != FF_FIXED && t->type == FF_FLOAT32 && n < t->count; n++)
            sum = sum * 31u + arena[t->ram / 4 + (uint32_t)n];
    }
    return sum;
}

int main(void)
{
    require(ff_init(&net, &ff_model, arena, sizeof arena) == FF_OK, 100);
    if (kept.begun != BEGUN) {
        memset(&kept, 0, sizeof kept);
        memset(kept.flash, 0xff, sizeof kept.flash);
        kept.begun = BEGUN;
        kept.random = 1;
        kept.left = 0xffffffffu;
        require(ff_flash_save(&flash, &net) == FF_OK, 101);
        kept.acknowledged = checksum();
    } else { /* power is back */
        require(ff_flash_load(&flash, &net) == FF_OK, 102);
        require(checksum() == kept.acknowledged || checksum() == kept.tried, 103);
        if (checksum() == kept.tried)
            kept.newer++;
        else
            kept.older++;
        kept.acknowledged = checksum();
    }
    while (kept.losses < LOSSES) {
        require(ff_learn(&net, ff_golden_vectors.images, (int32_t)drawn(FF_CLASSES)) == FF_OK, 104);
        kept.tried = checksum();
        kept.left = drawn(2 * (SLOT / SECTOR + SLOT / UNIT));
        require(ff_flash_save(&flash, &net) == FF_OK, 105);
        kept.acknowledged = kept.tried;
        kept.saved++;
    }
    say("losses", kept.losses);
    say("older", kept.older);
    say("newer", kept.newer);
    say("saved", kept.saved);
    end(0);
    return 0;
}
