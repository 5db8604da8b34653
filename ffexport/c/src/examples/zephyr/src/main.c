/* A network under Zephyr that learns one image and keeps that in the partition `storage_partition`, which has to hold two
 * slots. NOT BUILT: README.md says what was compiled, and why not more. */
#include "ff_flash.h"
#include "model.h"

#include <zephyr/kernel.h>
#include <zephyr/storage/flash_map.h>

#ifdef FF_FLASH_SECTOR /* of model.h, with --device */
#define SECTOR FF_FLASH_SECTOR
#define UNIT FF_FLASH_UNIT
#else /* of an nRF52840 */
#define SECTOR 4096u
#define UNIT 4u
#endif

static uint32_t arena[FF_ARENA_WORDS];
static struct ff_net net;

static int read_area(void *context, uint32_t offset, void *bytes, uint32_t count)
{
    return flash_area_read(context, (off_t)offset, bytes, count);
}

static int program_area(void *context, uint32_t offset, const void *bytes, uint32_t count)
{
    return flash_area_write(context, (off_t)offset, bytes, count);
}

static int erase_area(void *context, uint32_t offset)
{
    return flash_area_erase(context, (off_t)offset, SECTOR);
}

int main(void)
{
    const struct flash_area *area;
    struct ff_flash flash = {read_area,  program_area, erase_area, NULL, SECTOR, UNIT,
                             FF_FLASH_SLOT(FF_STATE_BYTES, UNIT, SECTOR)};
    float worst;
    if (flash_area_open(FIXED_PARTITION_ID(storage_partition), &area) != 0)
        return 1;
    flash.context = (void *)area;
    if (ff_init(&net, &ff_model, arena, sizeof arena) != FF_OK ||
        ff_golden(&net, &ff_golden_vectors, &worst) != FF_OK)
        return 1;
    printk("golden vectors reproduced; what was learned: %d\n", ff_flash_load(&flash, &net));
    ff_learn(&net, ff_golden_vectors.images, 0);
    printk("saved: %d\n", ff_flash_save(&flash, &net));
    return 0;
}
