/* Kernels of units in int8: exact integer arithmetic, so that every compiler and processor makes the same of an image,
 * to the bit. A shift to the right keeps the sign, as every compiler for these processors has it. Where a float32 is
 * needed, a product is rounded before anything is added to it, whatever the compiler would make of both together.
 *
 * With FF_USE_CMSIS_NN convolutions and linear layers go through Arm's CMSIS-NN (arm_convolve_wrapper_s8), whose
 * rounding this is, built without CMSIS_NN_USE_SINGLE_ROUNDING; what it does not take stays here. */

#include "ffint8.h"

#include <math.h>
#include <string.h>

#ifdef FF_USE_CMSIS_NN
#include "arm_nnfunctions.h"
#endif
#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>
#endif

#define BLOCK 4 /* channels that are computed at a time */
#define LARGEST 127

static int8_t *bytes(const struct ff_net *net, uint32_t place)
{
    return (int8_t *)(net->arena + place);
}

static int8_t clipped(int32_t value)
{
    return (int8_t)(value > LARGEST ? LARGEST : value < -LARGEST ? -LARGEST : value);
}

/* value multiplier / 2^31 2^shift, rounded twice: after the product halves go up, after the shift away from 0. */
static int32_t requantised(int32_t value, int32_t multiplier, int32_t shift)
{
    int32_t high = (int32_t)(((int64_t)value * multiplier + (1 << 30)) >> 31);
    int32_t mask = (int32_t)((1u << -shift) - 1u), rest = high & mask;
    return (high >> -shift) + (rest > (mask >> 1) + (high < 0));
}

/* ------------------------------------------------ sums of products ------------------------------------------------ */

#ifdef __ARM_FEATURE_DSP
static int8x4_t four(const int8_t *from)
{
    int8x4_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

/* Adds four products: `even` has the first and the third of the other numbers as int16, `odd` the rest. */
static int32_t add_four(int8x4_t w, int16x2_t even, int16x2_t odd, int32_t sum)
{
    return __smlad(__sxtb16(w >> 8), odd, __smlad(__sxtb16(w), even, sum));
}
#endif

/* Adds x times w to the sums, of BLOCK rows of weights that are `length` apart. */
static void add_block(const int8_t *w, int32_t length, const int8_t *x, int32_t count, int32_t *sums)
{
    const int8_t *w1 = w + length, *w2 = w1 + length, *w3 = w2 + length;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3], i = 0;
#ifdef __ARM_FEATURE_DSP
    for (; i + 4 <= count; i += 4) {
        int8x4_t pixels = four(x + i);
        int16x2_t even = __sxtb16(pixels), odd = __sxtb16(pixels >> 8);
        s0 = add_four(four(w + i), even, odd, s0);
        s1 = add_four(four(w1 + i), even, odd, s1);
        s2 = add_four(four(w2 + i), even, odd, s2);
        s3 = add_four(four(w3 + i), even, odd, s3);
    }
#endif
    for (; i < count; i++) {
        int32_t pixel = x[i];
        s0 += w[i] * pixel;
        s1 += w1[i] * pixel;
        s2 += w2[i] * pixel;
        s3 += w3[i] * pixel;
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

static void add_products_of(const int8_t *w, int32_t length, int32_t rows, const int8_t *x, int32_t count,
                            int32_t *sums)
{
    if (rows == BLOCK) {
        add_block(w, length, x, count, sums);
        return;
    }
    for (int32_t r = 0; r < rows; r++, w += length)
        for (int32_t i = 0; i < count; i++)
            sums[r] += w[i] * x[i];
}

/* What an operation makes at (i, j) of `rows` channels from c on, before pooling. Of a row of the window those taps
 * that lie inside follow each other, all channels of the input together. */
static void operate(const struct ff_layer *l, const int8_t *weight, int32_t rows, const int8_t *x, int32_t c, int32_t i,
                    int32_t j, int32_t *sums)
{
    int32_t top = i * l->stride - l->padding, left = j * l->stride - l->padding, length, first, end;
    if (l->op == FF_NOTHING) {
        for (int32_t r = 0; r < rows; r++)
            sums[r] = x[(i * l->in_w + j) * l->in_c + c + r];
        return;
    }
    memset(sums, 0, BLOCK * sizeof *sums);
    if (l->op == FF_LINEAR) {
        length = l->in_c * l->in_h * l->in_w;
        add_products_of(weight + c * length, length, rows, x, length, sums);
        return;
    }
    length = l->kernel * l->kernel * l->in_c;
    first = left < 0 ? -left : 0;
    end = l->in_w - left < l->kernel ? l->in_w - left : l->kernel;
    for (int32_t u = 0; first < end && u < l->kernel; u++)
        if (top + u >= 0 && top + u < l->in_h)
            add_products_of(weight + c * length + (u * l->kernel + first) * l->in_c, length, rows,
                            x + ((top + u) * l->in_w + left + first) * l->in_c, (end - first) * l->in_c, sums);
}

/* The sums of a pooling window at (i, j): the largest, or all together. */
static void pool(const struct ff_layer *l, const int8_t *weight, int32_t rows, const int8_t *x, int32_t c, int32_t i,
                 int32_t j, int32_t *values)
{
    int32_t sums[BLOCK];
    for (int32_t u = 0; u < l->size; u++)
        for (int32_t v = 0; v < l->size; v++) {
            operate(l, weight, rows, x, c, i * l->size + u, j * l->size + v, sums);
            for (int32_t r = 0; r < rows; r++) {
                if (u == 0 && v == 0)
                    values[r] = sums[r];
                else if (l->pool == FF_POOL_MEAN)
                    values[r] += sums[r];
                else if (sums[r] > values[r])
                    values[r] = sums[r];
            }
        }
}

/* From a channel's sum to what the layer makes of it. */
static int8_t finished(const struct ff_int8_layer *q, int32_t c, int32_t value, int8_t given)
{
    value += q->bias[c];
    if (q->shortcut)
        value += q->shortcut[c] * given;
    if (value < q->zero[c])
        value = q->zero[c] + (int32_t)(((int64_t)(value - q->zero[c]) * q->slope + FF_SLOPE_ONE / 2) >> 15);
    return clipped(requantised(value, q->multiplier[c], q->shift[c]));
}

static void run_layer(const struct ff_layer *l, const struct ff_int8_layer *q, const int8_t *x, const int8_t *given,
                      int8_t *y)
{
    int32_t values[BLOCK];
    for (int32_t c = 0; c < l->c; c += BLOCK) {
        int32_t rows = l->c - c < BLOCK ? l->c - c : BLOCK;
        for (int32_t i = 0; i < l->h; i++)
            for (int32_t j = 0; j < l->w; j++) {
                int32_t at = (i * l->w + j) * l->c + c;
                pool(l, q->weight, rows, x, c, i, j, values);
                for (int32_t r = 0; r < rows; r++)
                    y[at + r] = finished(q, c + r, values[r], q->shortcut ? given[at + r] : 0);
            }
    }
}

/* ------------------------------------------------ CMSIS-NN ------------------------------------------------ */

#ifdef FF_USE_CMSIS_NN
static int taken(const struct ff_layer *l, const struct ff_int8_layer *q)
{
    int window = l->op == FF_LINEAR || l->padding < l->kernel; /* some of it is inside, always */
    return l->op != FF_NOTHING && window && l->pool != FF_POOL_MEAN && !q->shortcut &&
           (q->slope == 0 || q->slope == FF_SLOPE_ONE);
}

/* The largest of each window of a strip, and the activation, which is monotone and so may come last. */
static void pool_strip(const struct ff_layer *l, const struct ff_int8_layer *q, const int8_t *strip, int8_t *y)
{
    int32_t width = l->w * l->size;
    for (int32_t j = 0; j < l->w; j++)
        for (int32_t c = 0; c < l->c; c++) {
            int8_t low = clipped(requantised(q->zero[c], q->multiplier[c], q->shift[c])), best = -LARGEST;
            for (int32_t u = 0; u < l->size; u++)
                for (int32_t v = 0; v < l->size; v++) {
                    int8_t value = strip[(u * width + j * l->size + v) * l->c + c];
                    if (value > best)
                        best = value;
                }
            *y++ = q->slope == 0 && best < low ? low : best;
        }
}

/* A layer by CMSIS-NN, strip by strip, each as high as a pooling window. Returns whether it did it all. */
static int run_by_cmsis_nn(const struct ff_net *net, const struct ff_layer *l, const struct ff_int8_layer *q,
                           const int8_t *x, int8_t *y)
{
    int linear = l->op == FF_LINEAR;
    int32_t side = linear ? 1 : l->kernel, height = linear ? 1 : l->in_h, width = linear ? 1 : l->in_w;
    int32_t channels = linear ? l->in_c * l->in_h * l->in_w : l->in_c, step = linear ? 1 : l->stride;
    int32_t across = l->w * l->size, padding = linear ? 0 : l->padding;
    int8_t *strip = (int8_t *)(net->arena + net->arena_bytes);
    cmsis_nn_context context;
    cmsis_nn_conv_params how;
    cmsis_nn_per_channel_quant_params scales;
    cmsis_nn_dims given = {1, height, width, channels}, filter = {l->c, side, side, channels};
    cmsis_nn_dims biases = {1, 1, 1, l->c}, made = {1, l->size, across, l->c};
    memset(&how, 0, sizeof how);
    how.stride.w = how.stride.h = step;
    how.dilation.w = how.dilation.h = 1;
    how.padding.w = padding;
    how.activation.min = -LARGEST;
    how.activation.max = LARGEST;
    scales.multiplier = (int32_t *)(uintptr_t)q->multiplier; /* they are read alone */
    scales.shift = (int32_t *)(uintptr_t)q->shift;
    context.buf = strip + (across * l->size * l->c + 3) / 4 * 4;
    for (int32_t i = 0; i < l->h; i++, y += l->w * l->c) {
        int32_t top = i * l->size * step - padding, first = top < 0 ? 0 : top;
        how.padding.h = first - top;
        given.h = height - first;
        context.size = arm_convolve_wrapper_s8_get_buffer_size(&how, &given, &filter, &made);
        if ((uint32_t)((int8_t *)context.buf - strip) + (uint32_t)context.size > net->model->int8->cmsis_nn_bytes)
            return 0;
        if (arm_convolve_wrapper_s8(&context, &how, &scales, &given, x + first * width * channels, &filter, q->weight,
                                    &biases, q->bias, &made, strip) != ARM_CMSIS_NN_SUCCESS)
            return 0;
        pool_strip(l, q, strip, y);
    }
    return 1;
}
#endif

/* ------------------------------------------------ units ------------------------------------------------ */

/* A number that is not negative, of which a float32 takes the first 31 bits: as little code as there may be. */
static float to_float(int64_t value)
{
    float unit = 1.0f;
    for (; value > INT32_MAX; value >>= 1)
        unit *= 2.0f;
    return (float)(int32_t)value * unit;
}

static int8_t rounded(float value)
{
    if (value >= (float)LARGEST || value <= -(float)LARGEST)
        return value > 0.0f ? LARGEST : -LARGEST;
    return (int8_t)(int32_t)(value + (value < 0.0f ? -0.5f : 0.5f));
}

/* What a unit receives, in place, where each image's own statistics normalise it. Sums are exact. */
static void normalise(const struct ff_net *net, int32_t index, int8_t *x, int32_t channels, int32_t area)
{
    const struct ff_unit *unit = &net->model->units[index];
    const struct ff_int8_unit *q = &net->model->int8->units[index];
    int32_t groups = unit->normalise == FF_NORMALISE_GROUPS ? unit->groups : 1, count = channels / groups;
    int32_t n = count * area;
    for (int32_t g = 0; q->gain > 0.0f && g < groups; g++) {
        int64_t squares = 0;
        int32_t sum = 0;
        float mean_square, factor;
        for (int32_t at = g * count; at < channels * area; at += channels)
            for (int32_t c = at; c < at + count; c++) {
                sum += x[c];
                squares += x[c] * x[c];
            }
        if (unit->normalise != FF_NORMALISE_GROUPS)
            sum = 0; /* no mean is taken off */
        mean_square = to_float(n * squares - (int64_t)sum * sum) / ((float)n * (float)n);
        factor = q->gain / sqrtf(mean_square + q->eps) / (float)n;
        for (int32_t at = g * count; at < channels * area; at += channels)
            for (int32_t c = at; c < at + count; c++) {
                volatile float product = (float)(n * x[c] - sum) * factor;
                x[c] = rounded(product);
            }
    }
}

void ff_int8_receive(const struct ff_net *net, const uint8_t *image)
{
    const struct ff_model *m = net->model;
    const struct ff_int8 *all = m->int8;
    int8_t *x = bytes(net, m->units[0].layers[0].x);
    for (int32_t i = 0; i < m->height * m->width; i++)
        for (int32_t c = 0; c < m->channels; c++) {
            int32_t pixel = image[c * m->height * m->width + i];
            *x++ = clipped((pixel * all->pixel_multiplier[c] + all->pixel_offset[c]) >> 16);
        }
    normalise(net, 0, bytes(net, m->units[0].layers[0].x), m->channels, m->height * m->width);
}

void ff_int8_run(const struct ff_net *net, int32_t unit)
{
    const struct ff_unit *described = &net->model->units[unit];
    const int8_t *given = bytes(net, described->layers[0].x);
    for (int32_t k = 0; k < described->count; k++) {
        const struct ff_layer *l = &described->layers[k];
        const struct ff_int8_layer *q = &net->model->int8->units[unit].layers[k];
#ifdef FF_USE_CMSIS_NN
        if (taken(l, q) && run_by_cmsis_nn(net, l, q, bytes(net, l->x), bytes(net, l->y)))
            continue;
#endif
        run_layer(l, q, bytes(net, l->x), given, bytes(net, l->y));
    }
}

/* A cell's average of steps, in float32: times a step, and what normalisation took off. */
void ff_int8_average(const struct ff_net *net, int32_t unit)
{
    const struct ff_unit *described = &net->model->units[unit];
    const struct ff_int8_unit *q = &net->model->int8->units[unit];
    const struct ff_layer *l = &described->layers[described->count - 1];
    const int8_t *y = bytes(net, l->y);
    float *z = (float *)(void *)(net->arena + described->z);
    for (int32_t c = 0; c < l->c; c++)
        for (int32_t r = 0; r < described->cell_rows; r++)
            for (int32_t s = 0; s < described->cell_columns; s++) {
                int32_t top = r * l->h / described->cell_rows, bottom = (r + 1) * l->h / described->cell_rows;
                int32_t left = s * l->w / described->cell_columns, right = (s + 1) * l->w / described->cell_columns;
                int32_t sum = 0;
                volatile float product;
                for (int32_t i = top; i < bottom; i++)
                    for (int32_t j = left; j < right; j++)
                        sum += y[(i * l->w + j) * l->c + c];
                product = (float)sum / (float)((bottom - top) * (right - left)) * q->scale[c];
                *z++ = product + q->mean[c];
            }
}

void ff_int8_hand_on(const struct ff_net *net, int32_t unit)
{
    const struct ff_int8 *all = net->model->int8;
    const struct ff_unit *described = &net->model->units[unit], *above = described + 1;
    const struct ff_layer *l = &described->layers[described->count - 1];
    int8_t *y = bytes(net, l->y);
    float *x = (float *)(void *)(net->arena + above->layers[0].x);
    if (unit + 1 < all->count) {
        normalise(net, unit + 1, y, l->c, l->h * l->w);
        return;
    }
    for (int32_t c = 0; c < l->c; c++)
        for (int32_t at = 0; at < l->h * l->w; at++) {
            volatile float product = (float)y[at * l->c + c] * all->step;
            *x++ = product + all->rest[c];
        }
}
