/* Units that are computed in int8: tables that ffexport writes, and the kernels of ffint8.c.
 *
 * An int8 q stands for q times a step, of weights one for each channel, and 0 for 0; -128 is not used. What a unit
 * makes lies as the unit above receives it, normalised. Images and what is made of them are (height, width, channels)
 * here, and weights (channels, kernel, kernel, channels of the input).
 */
#ifndef FF_INT8_H
#define FF_INT8_H

#include "ffedge.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FF_SLOPE_ONE 32768 /* of `slope` */

/* A sweep, beside its struct ff_layer. Of each channel, in units of its accumulator, which a sum of products counts: */
struct ff_int8_layer {
    const int8_t *weight;       /* NULL: no operation */
    const int32_t *bias;        /* with what the normalisation above takes off */
    const int32_t *zero;        /* where the activation's input is 0: what that normalisation takes off */
    const int32_t *shortcut;    /* a step of the unit's input, which is added; NULL: it is not */
    const int32_t *multiplier;  /* from there to a step of what it makes: times multiplier / 2^31 ... */
    const int32_t *shift;       /* ... times 2^shift; it is not positive */
    int32_t slope;              /* of what is below `zero`, FF_SLOPE_ONE is no activation */
};

struct ff_int8_unit {
    const struct ff_int8_layer *layers;
    const float *scale, *mean;  /* of each channel: a step of its output, and what its normalisation took off */
    float gain, eps;            /* of what it receives, where each image's own statistics normalise it: steps of the
                                   outcome in 1, and eps in squared steps before that; gain 0: they do not */
};

struct ff_int8 {
    int32_t count;              /* of units, from the first on; those above are in float32 */
    const struct ff_int8_unit *units;
    const int32_t *pixel_multiplier, *pixel_offset; /* of each channel of the image: (p multiplier + offset) / 2^16 */
    float step;                 /* of what the first unit in float32 receives ... */
    const float *rest;          /* ... and what is added to each of its channels */
    uint32_t cmsis_nn_bytes;    /* with FF_USE_CMSIS_NN: of scratch memory, behind the arena's */
    void (*receive)(const struct ff_net *net, const uint8_t *image);
    void (*run)(const struct ff_net *net, int32_t unit);
    void (*average)(const struct ff_net *net, int32_t unit); /* to the unit's features, not yet normalised */
    void (*hand_on)(const struct ff_net *net, int32_t unit); /* to the unit above, which may be in float32 */
};

void ff_int8_receive(const struct ff_net *net, const uint8_t *image);
void ff_int8_run(const struct ff_net *net, int32_t unit);
void ff_int8_average(const struct ff_net *net, int32_t unit);
void ff_int8_hand_on(const struct ff_net *net, int32_t unit);

#ifdef __cplusplus
}
#endif
#endif
