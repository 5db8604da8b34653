/* ffedge: a network trained without backpropagation, which classifies and goes on learning on a microcontroller.
 *
 * The network itself is a `const struct ff_model` in model.c, which `ffexport --format c` writes. All memory is one
 * arena that the caller gives: nothing is allocated, nothing recurses, and no function blocks. Of libc only sqrtf,
 * memcpy, memset and memcmp are used. Two networks, or two threads, need an arena and a `struct ff_net` each.
 *
 *     static uint32_t arena[FF_ARENA_WORDS];                     from model.h
 *     static struct ff_net net;
 *     float goodness[FF_ROWS];
 *     int32_t label;
 *
 *     if (ff_init(&net, &ff_model, arena, sizeof arena) != FF_OK) ...
 *     ff_classify(&net, image, goodness, &label);                which class?
 *     ff_learn(&net, image, 7);                                  it was a 7: one local step of every unit
 *
 * An image is uint8, FF_IMAGE_BYTES of it: channels, rows, columns, as the network was trained on them.
 */
#ifndef FFEDGE_H
#define FFEDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ff_error {
    FF_OK = 0,
    FF_ERROR_MODEL,   /* model.c is of another version of ffedge.c: take both from one export */
    FF_ERROR_ARENA,   /* the arena is smaller than this needs (FF_..._BYTES of model.h), or not aligned to 4 bytes */
    FF_ERROR_LABEL,   /* no class has this label */
    FF_ERROR_ROWS,    /* all spare rows are taken */
    FF_ERROR_NAME,    /* a class's name is empty, longer than FF_NAME_BYTES - 1, taken, or cannot be printed */
    FF_ERROR_IO,      /* a callback said that it failed */
    FF_ERROR_FORMAT,  /* not a state file, or damaged, or with more in it than there is room for */
    FF_ERROR_NEWER,   /* a state file of a newer format */
    FF_ERROR_HASH,    /* a state file whose content is not what its hash says */
    FF_ERROR_OTHER,   /* a state file that was learned on another network */
    FF_ERROR_FIXED,   /* a state file that changes what lies in flash here */
    FF_ERROR_DIVERGED, /* a weight that learned is no number any more: nothing is saved; ff_load or ff_init */
    FF_ERROR_GOLDEN,  /* the golden vectors are not reproduced */
    FF_ERROR_EMPTY,   /* flash holds no state, ff_flash.h */
    FF_ERROR_COUNTS   /* no class statistics: the model has none, the units have learned, or there is no room for more */
};

/* ------------------------------------------------ the network ------------------------------------------------ */

/* Tables that ffexport writes. A place is an offset in the arena, in bytes, a multiple of 4; an index that is -1 says
 * that there is none. Shapes are (channels, height, width), and a vector is (n, 1, 1). */

#define FF_VERSION 2           /* of these tables */
#define FF_NAME_BYTES 64       /* of the name of a class that was learned here, with its closing 0 */
#define FF_FIXED 0xffffffffu   /* in place of a place: stays in flash */
#define FF_ORIGINS 8           /* identities of devices whose class statistics are in a file, at most */
#define FF_ORIGIN_BYTES 17     /* of each, with its closing 0 */
#define FF_WELL_KNOWN 20       /* examples of a new class from which on it is no longer undertrained */

/* Of int8 units all but the readout is in the tables of ffint8.h. Of class statistics, int32 each and in a file int64,
 * int32, int32; where the model has none they are `elsewhere`. */
enum ff_type { FF_FLOAT32, FF_FLOAT16, FF_INT8, FF_ELSEWHERE, FF_COUNTS, FF_SUMS, FF_MOMENT };
enum ff_op { FF_NOTHING, FF_CONV, FF_LINEAR };
enum ff_pool { FF_POOL_NONE, FF_POOL_MAX, FF_POOL_MEAN };
enum ff_normalise { FF_NORMALISE_NONE, FF_NORMALISE_DIVISIVE, FF_NORMALISE_BATCH, FF_NORMALISE_GROUPS };

struct ff_tensor {             /* sorted by name, as in the bundle's weights.safetensors */
    const char *name;
    const void *data;          /* in flash; NULL: all 0 */
    uint32_t ram;              /* place of its copy that learns, or FF_FIXED */
    int32_t count;             /* of numbers */
    int32_t shape[4];
    uint8_t dimensions;
    uint8_t type;              /* enum ff_type */
};

struct ff_layer {              /* an operation, then pooling, then an activation: one sweep */
    uint8_t op;                /* enum ff_op */
    uint8_t pool;              /* enum ff_pool */
    uint8_t size;              /* of a pooling window, and its step; 1 without one */
    uint8_t kernel, stride, padding;
    int32_t in_c, in_h, in_w;
    int32_t c, h, w;           /* of what it makes */
    int32_t weight, bias;      /* indices of tensors */
    float slope;               /* a negative value is multiplied by it: 0 is a ReLU, 1 no activation at all */
    uint32_t x, y;             /* places of what it receives and makes */
    uint32_t best;             /* place of the place of each window's maximum, uint8 */
    uint32_t dx;               /* place of the gradient at what it receives; of a unit's first layer there is none */
};

struct ff_unit {
    const struct ff_layer *layers;
    int32_t count;             /* of layers */
    uint8_t normalise;         /* enum ff_normalise */
    uint8_t shortcut;          /* whether what the first layer receives is added before the last activation */
    uint8_t scored;            /* whether its goodness counts */
    int32_t groups;            /* of channels, each normalised by itself */
    int32_t mean, variance;    /* indices of tensors */
    int32_t cell_rows, cell_columns;  /* of the readout's averages; 0: it has no readout */
    int32_t features;          /* numbers that the readout reads */
    int32_t weight, bias;      /* indices of the readout's tensors */
    int32_t first;             /* of the features, among those of all scored units */
    const float *average;      /* of the features, over the bundle's classes; NULL: not known */
    float high, low;           /* goodness of a known class there, and where the others are, on average */
    uint32_t z;                /* place of the features, then of the gradient at the averages */
};

struct ff_counting {           /* class statistics, docs/bundle.md: how they are made, and how they answer */
    int32_t dimension, shift;
    uint32_t seed;             /* of the signs */
    const uint16_t *rows;      /* of the Hadamard matrix, those that are kept */
    const float *prior;        /* what the covariance begins with, times `examples`: its upper triangle, row by row */
    const int32_t *counts, *sums;  /* of the training set, (classes), (classes, dimension) */
    int32_t classes, together; /* of these; and those that the network was trained on */
    float examples, share, isotropic;  /* that the prior counts as; what of that is isotropic; that, along an axis */
    float beside, alone;       /* weights of their scores */
    uint32_t counted, sums_here, moment;  /* places: (rows) int64, (rows, dimension) and the upper triangle, int32 */
    uint32_t factor, about;    /* of the covariance: upper triangle, row by row; its examples and effective dimension */
    uint32_t x, v;             /* an image as an example, int32; a difference from a mean, float */
    uint32_t origins;
};

struct ff_model {
    int32_t version;
    const char *hash;          /* SHA-256 of the bundle's weights, in hexadecimal */
    const char *made_with;     /* version of ffedge */
    int32_t channels, height, width;
    float image_mean, image_std;
    int32_t rows;              /* of every readout: those of classes, and the spare ones */
    int32_t classes;           /* that the bundle knows */
    const char *const *names;
    const struct ff_unit *units;
    int32_t unit_count;
    const struct ff_int8 *int8; /* the units that are computed in int8, ffint8.h; NULL: none */
    const struct ff_tensor *tensors;
    int32_t tensor_count;
    int32_t known, total;      /* indices of labels.known and total.weights */
    const float *margins;      /* of early exit, for each scored unit but the last; NULL: never early */
    float smoothing, prototypes;  /* of the loss */
    float rate;                /* the learning rate to begin with */
    uint32_t classify_bytes, learn_bytes, momentum_bytes;  /* arena to classify, to learn, with momentum */
    uint32_t goodness;         /* place of a unit's goodness and of totals, twice `rows` floats */
    uint32_t slopes;           /* of the gradients there, twice `rows` floats */
    uint32_t row;              /* of a row of weights that was float16 in flash */
    uint32_t learned, learned_bytes;  /* place and size of all tensors that learn */
    uint32_t learned_names;    /* of the names of classes learned here, and of `seen` behind them */
    uint32_t scratch_bytes;    /* from the arena's start: for a state file's header */
    const struct ff_counting *counting;  /* NULL: the model has no class statistics, or too many for a chip */
};

struct ff_golden {             /* what the trainer computed */
    int32_t count;             /* of images */
    const uint8_t *images;
    const float *goodness;     /* (count, rows, units) */
    const float *total;        /* (count, rows) */
    float tolerance;           /* as a share of the largest golden value */
};

struct ff_net {
    const struct ff_model *model;
    unsigned char *arena;
    uint32_t arena_bytes;
    int32_t classes;           /* as it is now */
    uint32_t updates, examples;
    float rate;                /* learning rate of ff_learn */
    float momentum;            /* 0: none. More needs an arena of FF_MOMENTUM_BYTES */
    uint8_t learns;            /* whether the arena has room to learn */
    uint8_t frozen;            /* 1: the units stay as they are, and readouts alone learn */
    uint8_t counts;            /* whether class statistics answer: the units are those that they are made of */
    uint8_t solved;            /* whether the covariance's factor is that of what was counted */
};

/* ------------------------------------------------ the interface ------------------------------------------------ */

/* Begin, or begin anew, with the weights in flash. An arena of FF_CLASSIFY_BYTES classifies; one of FF_LEARN_BYTES
 * learns as well. */
enum ff_error ff_init(struct ff_net *net, const struct ff_model *model, void *arena, size_t bytes);

/* The class of an image, and the goodness of all: FF_ROWS floats, of which those of known classes are set. */
enum ff_error ff_classify(struct ff_net *net, const uint8_t *image, float *goodness, int32_t *label);

/* The same, but the first unit that is sure answers, by its own goodness. `units`: how many were computed. */
enum ff_error ff_classify_exit(
    struct ff_net *net, const uint8_t *image, float *goodness, int32_t *label, int32_t *units);

/* One step of every unit that learns, each by its own loss, from one image with its label. */
enum ff_error ff_learn(struct ff_net *net, const uint8_t *image, int32_t label);

/* The image with its label counts from now on, in closed form, where the model has class statistics: nothing is
 * learned by gradient, the order does not matter, and a new class is told from its first example. Once for an image.
 * A step of ff_learn that changes the units ends that until ff_init; set `frozen`, or let the readouts alone learn. */
enum ff_error ff_count(struct ff_net *net, const uint8_t *image, int32_t label);

/* A class that the network never saw takes a spare row, which begins with the first image that ff_learn is given of it.
 * Its name is UTF-8. */
enum ff_error ff_new_class(struct ff_net *net, const char *name, int32_t *label);

/* Name of a class; NULL: there is none of that label. */
const char *ff_name(const struct ff_net *net, int32_t label);

/* What was learned, as the state file of docs/state.md, from its start to its end, in pieces from one byte on. A callback
 * returns 0, or anything else where it failed. */
typedef int (*ff_write)(void *context, const void *bytes, uint32_t count);
enum ff_error ff_save(struct ff_net *net, ff_write write, void *context);

/* A state file of so many bytes, of any device of this network, in place of what was learned. It is read three times,
 * and nothing changes before all of it was found right; where a read fails after that, nothing is learned any more.
 * Class statistics in it are taken where the model has some, and else passed over. */
typedef int (*ff_read)(void *context, uint32_t offset, void *bytes, uint32_t count);
enum ff_error ff_load(struct ff_net *net, ff_read read, void *context, uint32_t bytes);

/* Whether this compiler and processor compute what the trainer did; for a network that has learned nothing.
 * `worst`: the largest error, as a share of the largest value there. */
enum ff_error ff_golden(struct ff_net *net, const struct ff_golden *golden, float *worst);

#ifdef __cplusplus
}
#endif
#endif
