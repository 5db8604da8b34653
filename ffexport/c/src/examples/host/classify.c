/* Classify PGM files (P5, 8 bits) of the network's size on a computer:
 *
 *     cc -std=c99 -I. *.c examples/host/classify.c -lm -o classify && ./classify digit.pgm
 */
#include "model.h"

#include <stdio.h>

static uint32_t arena[FF_ARENA_WORDS];

static int read_pgm(const char *path, uint8_t *image)
{
    unsigned width, height, most;
    size_t count = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    if (fscanf(file, "P5 %u %u %u", &width, &height, &most) == 3 && fgetc(file) != EOF && most == 255 &&
        width * height == FF_IMAGE_BYTES)
        count = fread(image, 1, FF_IMAGE_BYTES, file);
    fclose(file);
    return count == FF_IMAGE_BYTES;
}

int main(int count, char **paths)
{
    static struct ff_net net;
    static uint8_t image[FF_IMAGE_BYTES];
    float goodness[FF_ROWS], worst;
    int32_t label;
    if (ff_init(&net, &ff_model, arena, sizeof arena) != FF_OK ||
        ff_golden(&net, &ff_golden_vectors, &worst) != FF_OK) {
        fprintf(stderr, "the golden vectors are not reproduced\n");
        return 1;
    }
    for (int i = 1; i < count; i++) {
        if (!read_pgm(paths[i], image)) {
            fprintf(stderr, "%s: not a PGM (P5, 8 bits) of %d pixels\n", paths[i], FF_IMAGE_BYTES);
            return 1;
        }
        ff_classify(&net, image, goodness, &label);
        printf("%s  %s\n", paths[i], ff_name(&net, label));
    }
    return 0;
}
