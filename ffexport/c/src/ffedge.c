/* Kernels, classification and learning. What they compute is specified in docs/bundle.md, "From an image to an answer"
 * and "learning.loss"; x is what a layer receives, y what it makes, dy and dx are gradients there. */

#include "ffint8.h"
#include "ffparts.h"

#include <math.h>
#include <string.h>

#define EPS_DIVISIVE 1e-8f
#define EPS_BATCH 1e-5f
#define BLOCK 4 /* channels that are computed at a time */

/* ------------------------------------------------ memory ------------------------------------------------ */

static int learns(const struct ff_net *net, int32_t tensor)
{
    return tensor >= 0 && net->learns && net->model->tensors[tensor].ram != FF_FIXED;
}

/* IEEE 754 binary16 to binary32. */
static float from_half(uint16_t half)
{
    uint32_t exponent = (half >> 10) & 31u, bits, fraction = half & 1023u;
    float value;
    if (exponent == 0) {
        value = (float)fraction * (1.0f / 16777216.0f); /* 2^-24: subnormal, or 0 */
        return half & 0x8000u ? -value : value;
    }
    bits = (uint32_t)(half & 0x8000u) << 16 | (exponent + 112u) << 23 | fraction << 13; /* no weight is infinite */
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rows of a tensor, from `index` on, `length` numbers each, to be read: in RAM, in flash, or converted from float16. */
static const float *rows_of(const struct ff_net *net, int32_t tensor, int32_t index, int32_t length, int32_t rows)
{
    const struct ff_tensor *t = &net->model->tensors[tensor];
    if (learns(net, tensor))
        return ff_floats(net, t->ram) + index * length;
    if (t->type == FF_FLOAT32)
        return (const float *)t->data + index * length;
    {
        const uint16_t *halves = (const uint16_t *)t->data + index * length;
        float *out = ff_floats(net, net->model->row);
        for (int32_t i = 0; i < rows * length; i++)
            out[i] = from_half(halves[i]);
        return out;
    }
}

static const float *row(const struct ff_net *net, int32_t tensor, int32_t index, int32_t length)
{
    return rows_of(net, tensor, index, length, 1);
}

static float number(const struct ff_net *net, int32_t tensor, int32_t index)
{
    return tensor < 0 ? 0.0f : *row(net, tensor, index, 1);
}

/* ------------------------------------------------ forward ------------------------------------------------ */

static float dot(const float *a, const float *b, int32_t count)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* The same, each product rounded before it is added: a compiler that makes one instruction of both gets other bits. So
 * what is told of int8 features is the same on every processor. */
static float dot_to_the_bit(const float *a, const float *b, int32_t count)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < count; i++) {
        volatile float product = a[i] * b[i];
        sum += product;
    }
    return sum;
}

static void add_scaled(float *to, const float *from, float scale, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        to[i] += scale * from[i];
}

/* What a row of weights meets at output (c, i, j): of every plane of the input a window, in which some taps lie outside. A
 * linear layer has one plane and one line of taps, all of its input; without an operation there is one pixel. */
struct side {
    int32_t first, plane, line;     /* where it begins, and how far planes and lines are apart */
};

struct window {
    int32_t planes, down, across;   /* of taps that lie inside */
    struct side taps, pixels;       /* of the weights, and of the input */
};

static struct window window_at(const struct ff_layer *l, int32_t c, int32_t i, int32_t j)
{
    int32_t top = i * l->stride - l->padding, left = j * l->stride - l->padding;
    int32_t first_down = top < 0 ? -top : 0, first_across = left < 0 ? -left : 0;
    int32_t end_down = l->in_h - top, end_across = l->in_w - left;
    struct window at = {1, 1, 1, {0, 0, 0}, {0, 0, 0}};
    if (l->op == FF_NOTHING) {
        at.pixels.first = (c * l->in_h + i) * l->in_w + j;
        return at;
    }
    if (l->op == FF_LINEAR) {
        at.across = l->in_c * l->in_h * l->in_w;
        return at;
    }
    if (end_down > l->kernel)
        end_down = l->kernel;
    if (end_across > l->kernel)
        end_across = l->kernel;
    at.planes = l->in_c;
    at.down = end_down - first_down;
    at.across = end_across - first_across;
    at.taps.first = first_down * l->kernel + first_across;
    at.taps.plane = l->kernel * l->kernel;
    at.taps.line = l->kernel;
    at.pixels.first = (top + first_down) * l->in_w + left + first_across;
    at.pixels.plane = l->in_h * l->in_w;
    at.pixels.line = l->in_w;
    if (at.down < 1 || at.across < 1)
        at.planes = 0; /* padding alone */
    return at;
}

static int32_t row_length(const struct ff_layer *l)
{
    return l->op == FF_CONV ? l->in_c * l->kernel * l->kernel : l->in_c * l->in_h * l->in_w;
}

/* What an operation makes at (i, j) of `rows` channels from c on, before pooling, without the bias: w are the weights
 * of the first of them. A pixel is loaded once for BLOCK channels. */
static void operate(const struct ff_layer *l, const float *w, int32_t rows, const float *x, int32_t c, int32_t i,
                    int32_t j, float *sums)
{
    int32_t length = row_length(l);
    struct window at = window_at(l, c, i, j);
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    if (l->op == FF_NOTHING) {
        for (int32_t r = 0; r < rows; r++)
            sums[r] = x[at.pixels.first + r * l->in_h * l->in_w];
        return;
    }
    memset(sums, 0, BLOCK * sizeof *sums);
    for (int32_t a = 0; a < at.planes; a++) {
        const float *taps = w + at.taps.first + a * at.taps.plane, *pixels = x + at.pixels.first + a * at.pixels.plane;
        for (int32_t u = 0; u < at.down; u++, taps += at.taps.line, pixels += at.pixels.line) {
            const float *tap = taps;
            if (rows == BLOCK) {
                for (int32_t v = 0; v < at.across; v++, tap++) {
                    float pixel = pixels[v];
                    s0 += tap[0] * pixel;
                    s1 += tap[length] * pixel;
                    s2 += tap[2 * length] * pixel;
                    s3 += tap[3 * length] * pixel;
                }
            } else {
                for (int32_t r = 0; r < rows; r++, tap += length)
                    sums[r] += dot(tap, pixels, at.across);
            }
        }
    }
    if (rows == BLOCK) {
        sums[0] = s0;
        sums[1] = s1;
        sums[2] = s2;
        sums[3] = s3;
    }
}

/* The values of a pooling window at (i, j) as one, of `rows` channels: their maximum, with its place in the window, or
 * their mean. */
static void pool(const struct ff_layer *l, const float *w, int32_t rows, const float *x, int32_t c, int32_t i,
                 int32_t j, float *values, uint8_t *best)
{
    float sums[BLOCK], area = (float)(l->size * l->size);
    for (int32_t u = 0; u < l->size; u++)
        for (int32_t v = 0; v < l->size; v++) {
            int first = u == 0 && v == 0;
            operate(l, w, rows, x, c, i * l->size + u, j * l->size + v, sums);
            for (int32_t r = 0; r < rows; r++) {
                if (l->pool == FF_POOL_MEAN) {
                    values[r] = (first ? 0.0f : values[r]) + sums[r] / area;
                } else if (first || sums[r] > values[r]) {
                    values[r] = sums[r];
                    best[r] = (uint8_t)(u * l->size + v);
                }
            }
        }
}

/* A layer in one sweep: operation, pooling, `added` (NULL: nothing), activation. The places of maxima are kept where
 * the net is `learning`. */
static void run_layer(const struct ff_net *net, const struct ff_layer *l, const float *added, int learning)
{
    const float *x = ff_floats(net, l->x), *w = NULL;
    float *y = ff_floats(net, l->y), values[BLOCK];
    uint8_t *best = learning && l->pool == FF_POOL_MAX ? net->arena + l->best : NULL, places[BLOCK];
    for (int32_t c = 0; c < l->c; c += BLOCK) {
        int32_t rows = l->c - c < BLOCK ? l->c - c : BLOCK;
        if (l->op != FF_NOTHING)
            w = rows_of(net, l->weight, c, row_length(l), rows);
        for (int32_t i = 0; i < l->h; i++)
            for (int32_t j = 0; j < l->w; j++) {
                pool(l, w, rows, x, c, i, j, values, places);
                for (int32_t r = 0; r < rows; r++) {
                    int32_t at = ((c + r) * l->h + i) * l->w + j;
                    float value = values[r] + number(net, l->bias, c + r);
                    if (added)
                        value += added[at];
                    y[at] = value > 0.0f ? value : l->slope * value;
                    if (best)
                        best[at] = places[r];
                }
            }
    }
}

/* x / sqrt(mean of squares + eps), in place; returns the root. */
static float divide_by_root(float *x, int32_t count, float eps)
{
    float root = sqrtf(dot_to_the_bit(x, x, count) / (float)count + eps);
    for (int32_t i = 0; i < count; i++)
        x[i] /= root;
    return root;
}

/* What a unit receives, as it normalises it, in place: channels of `area` pixels. Statistics are frozen. */
static void normalise(const struct ff_net *net, const struct ff_unit *unit, float *x, int32_t channels, int32_t area)
{
    int32_t groups = unit->normalise == FF_NORMALISE_BATCH ? channels : unit->groups;
    int32_t count = channels / groups * area;
    if (unit->normalise == FF_NORMALISE_NONE)
        return;
    if (unit->normalise == FF_NORMALISE_DIVISIVE) {
        divide_by_root(x, channels * area, EPS_DIVISIVE);
        return;
    }
    for (int32_t g = 0; g < groups; g++, x += count) {
        float mean = 0.0f;
        if (unit->normalise == FF_NORMALISE_BATCH) {
            float root = sqrtf(number(net, unit->variance, g) + EPS_BATCH);
            mean = number(net, unit->mean, g);
            for (int32_t i = 0; i < count; i++)
                x[i] = (x[i] - mean) / root;
            continue;
        }
        for (int32_t i = 0; i < count; i++)
            mean += x[i];
        mean /= (float)count;
        for (int32_t i = 0; i < count; i++)
            x[i] -= mean;
        divide_by_root(x, count, EPS_BATCH);
    }
}

/* How many units are computed in int8. */
static int32_t in_int8(const struct ff_model *m)
{
    return m->int8 ? m->int8->count : 0;
}

static void run_layers(const struct ff_net *net, int32_t index, int learning)
{
    const struct ff_unit *unit = &net->model->units[index];
    const float *given = ff_floats(net, unit->layers[0].x);
    if (index < in_int8(net->model)) {
        net->model->int8->run(net, index);
        return;
    }
    for (int32_t k = 0; k < unit->count; k++)
        run_layer(net, &unit->layers[k], unit->shortcut && k == unit->count - 1 ? given : NULL, learning);
}

/* ------------------------------------------------ the readout ------------------------------------------------ */

/* Where cell `index` of `cells` begins on a side of so many pixels. */
static int32_t edge(int32_t index, int32_t side, int32_t cells)
{
    return index * side / cells;
}

/* The features z of a unit, averages of its activation over cells, normalised; returns the root they are divided by. */
static float read_features(const struct ff_net *net, int32_t index)
{
    const struct ff_unit *unit = &net->model->units[index];
    const struct ff_layer *last = &unit->layers[unit->count - 1];
    const float *y = ff_floats(net, last->y);
    float *z = ff_floats(net, unit->z);
    if (index < in_int8(net->model)) {
        net->model->int8->average(net, index);
        return divide_by_root(z, unit->features, EPS_DIVISIVE);
    }
    for (int32_t c = 0; c < last->c; c++, y += last->h * last->w)
        for (int32_t r = 0; r < unit->cell_rows; r++)
            for (int32_t s = 0; s < unit->cell_columns; s++) {
                int32_t bottom = edge(r + 1, last->h, unit->cell_rows), right = edge(s + 1, last->w, unit->cell_columns);
                int32_t pixels = 0;
                float sum = 0.0f;
                for (int32_t i = edge(r, last->h, unit->cell_rows); i < bottom; i++)
                    for (int32_t j = edge(s, last->w, unit->cell_columns); j < right; j++, pixels++)
                        sum += y[i * last->w + j];
                *z++ = sum / (float)pixels;
            }
    return divide_by_root(ff_floats(net, unit->z), unit->features, EPS_DIVISIVE);
}

/* The goodness of every row of a unit's readout, from its features. */
static void read_goodness(const struct ff_net *net, const struct ff_unit *unit)
{
    float *goodness = ff_floats(net, net->model->goodness);
    const float *z = ff_floats(net, unit->z);
    for (int32_t p = 0; p < net->model->rows; p++)
        goodness[p] = number(net, unit->bias, p) +
                      dot_to_the_bit(row(net, unit->weight, p, unit->features), z, unit->features);
}

/* ------------------------------------------------ classifying ------------------------------------------------ */

int ff_is_known(const struct ff_net *net, int32_t label)
{
    return number(net, net->model->known, label) > 0.0f;
}

/* The known class of the most goodness, the lower label of equals; `margin`: how far it is above the second;
 * of a single class infinite. */
static int32_t answer(const struct ff_net *net, const float *goodness, float *margin)
{
    int32_t best = -1, second = -1;
    for (int32_t p = 0; p < net->classes; p++) {
        if (!ff_is_known(net, p))
            continue;
        if (best < 0 || goodness[p] > goodness[best]) {
            second = best;
            best = p;
        } else if (second < 0 || goodness[p] > goodness[second]) {
            second = p;
        }
    }
    *margin = second < 0 ? HUGE_VALF : goodness[best] - goodness[second];
    return best;
}

static void receive_image(const struct ff_net *net, const uint8_t *image)
{
    const struct ff_model *m = net->model;
    int32_t area = m->height * m->width, count = m->channels * area;
    float *x = ff_floats(net, m->units[0].layers[0].x);
    if (in_int8(m)) {
        m->int8->receive(net, image);
        return;
    }
    for (int32_t i = 0; i < count; i++)
        x[i] = ((float)image[i] / 255.0f - m->image_mean) / m->image_std;
    normalise(net, &m->units[0], x, m->channels, area);
}

/* Normalise a unit's activation, as the unit above receives it: in place, but for what was int8 and is so no more. */
static void hand_on(const struct ff_net *net, int32_t unit)
{
    const struct ff_unit *units = net->model->units;
    const struct ff_layer *last = &units[unit].layers[units[unit].count - 1];
    int folded;
    if (unit + 1 == net->model->unit_count)
        return;
    if (unit < in_int8(net->model))
        net->model->int8->hand_on(net, unit);
    folded = units[unit + 1].normalise == FF_NORMALISE_BATCH; /* into the tables of int8 */
    if (unit >= in_int8(net->model) || (unit + 1 == in_int8(net->model) && !folded))
        normalise(net, &units[unit + 1], ff_floats(net, units[unit + 1].layers[0].x), last->c, last->h * last->w);
}

static void add_to_total(const struct ff_net *net, float *total, const float *own, int32_t unit)
{
    for (int32_t p = 0; p < net->model->rows; p++) {
        volatile float product = number(net, net->model->total, unit) * own[p];
        total[p] += product;
    }
}

void ff_pass(const struct ff_net *net, const uint8_t *image, float *goodness, int32_t *label, const float *margins,
             int32_t *units, int counting)
{
    const struct ff_model *m = net->model;
    const float *own = ff_floats(net, m->goodness);
    int32_t k, scored = 0, last = m->unit_count - 1;
    float margin;
    while (!m->units[last].scored)
        last--;
    memset(goodness, 0, (size_t)m->rows * sizeof *goodness);
    receive_image(net, image);
    for (k = 0; k <= last; k++) {
        const struct ff_unit *unit = &m->units[k];
        run_layers(net, k, 0);
        if (unit->scored) {
            read_features(net, k);
#ifndef FF_CLASSIFY_ONLY
            if (counting)
                ff_project(net, unit);
#else
            (void)counting;
#endif
            read_goodness(net, unit);
            add_to_total(net, goodness, own, k);
            if (margins && k < last) {
                *label = answer(net, own, &margin);
                if (margin > margins[scored++]) {
                    memcpy(goodness, own, (size_t)m->rows * sizeof *goodness);
                    *units = k + 1;
                    return;
                }
            }
        }
        hand_on(net, k);
    }
    *label = answer(net, goodness, &margin);
    *units = k;
}

enum ff_error ff_classify(struct ff_net *net, const uint8_t *image, float *goodness, int32_t *label)
{
    int32_t units;
#ifdef FF_CLASSIFY_ONLY /* an arena that is too small to count, either */
    ff_pass(net, image, goodness, label, NULL, &units, 0);
#else
    int counting = ff_counts_answer(net);
    ff_pass(net, image, goodness, label, NULL, &units, counting);
    if (counting)
        *label = ff_answer(net, goodness);
#endif
    return FF_OK;
}

enum ff_error ff_classify_exit(
    struct ff_net *net, const uint8_t *image, float *goodness, int32_t *label, int32_t *units)
{
    if (ff_counts_alone(net)) { /* no unit is sure that an image is not of a class that it does not know */
        *units = net->model->unit_count;
        return ff_classify(net, image, goodness, label);
    }
    ff_pass(net, image, goodness, label, net->model->margins, units, 0);
    return FF_OK;
}

/* ------------------------------------------------ learning ------------------------------------------------ */

/* Where the gradient of a row of a tensor is added to, and times what: without momentum right to the row itself; with
 * it to the row's moment, which `step_end` then takes from the row. */
struct step {
    float *row, *moment, *to;
    float scale;
    int32_t length;
};

static struct step step_begin(const struct ff_net *net, int32_t tensor, int32_t index, int32_t length)
{
    struct step s;
    s.length = length;
    s.row = s.to = ff_floats(net, net->model->tensors[tensor].ram) + index * length;
    s.moment = NULL;
    s.scale = -net->rate;
    if (net->momentum > 0.0f) {
        uint32_t behind = net->model->tensors[tensor].ram - net->model->learned;
        s.moment = s.to = ff_floats(net, net->model->learn_bytes + behind) + index * length;
        s.scale = 1.0f;
        for (int32_t i = 0; i < length; i++)
            s.moment[i] *= net->momentum;
    }
    return s;
}

static void step_end(const struct ff_net *net, const struct step *s)
{
    if (s->moment)
        add_scaled(s->row, s->moment, -net->rate, s->length);
}

static void step_number(const struct ff_net *net, int32_t tensor, int32_t index, float gradient)
{
    struct step s = step_begin(net, tensor, index, 1);
    *s.to += s.scale * gradient;
    step_end(net, &s);
}

/* exp(x) of x <= 0: 2^n times the series of what is left, at most half of ln 2. libc's takes six times the code. */
static float exponential(float x)
{
    int32_t n;
    uint32_t bits;
    float power, series = 1.0f;
    if (!(x > -87.0f))
        return x < 0.0f ? 0.0f : x; /* NaN stays */
    n = (int32_t)(x * 1.44269504f - 0.5f);
    x = x - (float)n * 0.693359375f + (float)n * 2.12194440e-4f; /* ln 2 in two parts, so that nothing is rounded */
    for (int32_t k = 7; k > 0; k--)
        series = 1.0f + x * series / (float)k;
    bits = (uint32_t)(n + 127) << 23;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* The slopes of the loss at scores (rows): cross-entropy of their softmax over the known ones, `smoothing` of the
 * target spread evenly over these; of rows that are not known 0. */
static void loss_slopes(const struct ff_net *net, const float *scores, int32_t label, float *slopes)
{
    int32_t rows = net->model->rows, known = 0;
    float highest = 0.0f, sum = 0.0f, wrong = 0.0f, smoothing = net->model->smoothing;
    for (int32_t p = 0; p < rows; p++)
        if (ff_is_known(net, p) && (known++ == 0 || scores[p] > highest))
            highest = scores[p];
    for (int32_t p = 0; p < rows; p++) {
        slopes[p] = ff_is_known(net, p) ? exponential(scores[p] - highest) : 0.0f;
        sum += slopes[p];
    }
    for (int32_t p = 0; p < rows; p++) {
        float share = slopes[p] / sum;
        if (!ff_is_known(net, p))
            continue;
        slopes[p] = share - smoothing / (float)known;
        if (p != label)
            wrong += share;
    }
    slopes[label] = smoothing - smoothing / (float)known - wrong; /* its share less 1, without the rounding of that */
}

/* A step of the readout, from the slopes at a unit's goodness, and the gradient at the averages in place of the features
 * z: (dz - z mean(dz z)) / root, a feature at a time. With prototypes there are slopes at every row's nearness, too:
 * R z - |R|^2 / 2. */
static void learn_readout(const struct ff_net *net, const struct ff_unit *unit, int32_t label, float root)
{
    const struct ff_model *m = net->model;
    float *z = ff_floats(net, unit->z), *goodness = ff_floats(net, m->goodness);
    float *error = ff_floats(net, m->slopes), *near = error + m->rows, along = 0.0f;
    int32_t features = unit->features;
    loss_slopes(net, goodness, label, error);
    memset(near, 0, (size_t)m->rows * sizeof *near);
    if (m->prototypes > 0.0f) {
        for (int32_t p = 0; p < m->rows; p++) {
            const float *weights = row(net, unit->weight, p, features);
            goodness[p] -= number(net, unit->bias, p) + 0.5f * dot(weights, weights, features);
        }
        loss_slopes(net, goodness, label, near);
        for (int32_t p = 0; p < m->rows; p++)
            near[p] *= m->prototypes;
    }
    for (int32_t p = 0; p < m->rows; p++) {
        step_number(net, unit->bias, p, error[p]);
        error[p] += near[p];
        along += error[p] * dot(row(net, unit->weight, p, features), z, features) / (float)features;
    }
    for (int32_t f = 0; f < features; f++) {
        float sum = 0.0f;
        for (int32_t p = 0; p < m->rows; p++) {
            float weight = ff_floats(net, m->tensors[unit->weight].ram)[p * features + f];
            sum += error[p] * weight;
            step_number(net, unit->weight, p * features + f, error[p] * z[f] - near[p] * weight);
        }
        z[f] = (sum - z[f] * along) / root;
    }
}

/* The row of a new class begins with its first image (imprinting: Qi et al. 2018): it points from the average of the
 * other classes' features to that image's, with the length and the bias by which its goodness at both is what known rows
 * have there. */
static void begin_row(const struct ff_net *net, const struct ff_unit *unit, int32_t label)
{
    const struct ff_tensor *weight = &net->model->tensors[unit->weight], *bias = &net->model->tensors[unit->bias];
    const float *z = ff_floats(net, unit->z);
    float *begun = ff_floats(net, weight->ram) + label * unit->features, square;
    if (!unit->average)
        return;
    memcpy(begun, z, (size_t)unit->features * sizeof *begun);
    add_scaled(begun, unit->average, -1.0f, unit->features);
    square = dot(begun, begun, unit->features);
    for (int32_t f = 0; f < unit->features && square > 0.0f; f++)
        begun[f] *= (unit->high - unit->low) / square;
    ff_floats(net, bias->ram)[label] = unit->high - dot(begun, z, unit->features);
}

/* The gradient at (c, i, j) of what a layer makes before its activation: of a unit's last layer from the readout, whose
 * every average has its pixels' share. */
static float error_at(const struct ff_net *net, const struct ff_unit *unit, int32_t layer, int32_t c, int32_t i, int32_t j)
{
    const struct ff_layer *l = &unit->layers[layer];
    int32_t at = (c * l->h + i) * l->w + j, rows = unit->cell_rows, columns = unit->cell_columns;
    float dy;
    if (layer < unit->count - 1) {
        dy = ff_floats(net, unit->layers[layer + 1].dx)[at];
    } else {
        int32_t r = ((i + 1) * rows - 1) / l->h, s = ((j + 1) * columns - 1) / l->w; /* the cell */
        int32_t down = edge(r + 1, l->h, rows) - edge(r, l->h, rows);
        int32_t across = edge(s + 1, l->w, columns) - edge(s, l->w, columns);
        dy = ff_floats(net, unit->z)[(c * rows + r) * columns + s] / (float)(down * across);
    }
    return ff_floats(net, l->y)[at] > 0.0f ? dy : dy * l->slope;
}

/* Add to one side of a window `scale` times the other. */
static void add_side(const struct window *at, float *to, const struct side *t, const float *from, const struct side *f,
                     float scale)
{
    for (int32_t a = 0; a < at->planes; a++)
        for (int32_t u = 0; u < at->down; u++) {
            float *sums = to + t->first + a * t->plane + u * t->line;
            const float *values = from + f->first + a * f->plane + u * f->line;
            for (int32_t v = 0; v < at->across; v++)
                sums[v] += scale * values[v];
        }
}

/* The errors of channel c, each through the pooling, to the maximum or evenly, go through its weights to the gradient at
 * what the layer receives, with `to_pixels`; or else through what it receives to the gradient of the weights, times
 * `scale`. Returns their sum. */
static float spread(const struct ff_net *net, const struct ff_unit *unit, int32_t layer, int32_t c, int to_pixels,
                    float *to, const float *from, float scale)
{
    const struct ff_layer *l = &unit->layers[layer];
    const uint8_t *best = net->arena + l->best + c * l->h * l->w;
    int32_t window = l->size * l->size;
    float sum = 0.0f;
    for (int32_t i = 0; i < l->h; i++)
        for (int32_t j = 0; j < l->w; j++) {
            float error = error_at(net, unit, layer, c, i, j);
            int32_t at = l->pool == FF_POOL_MAX ? best[i * l->w + j] : 0, end = l->pool == FF_POOL_MAX ? at + 1 : window;
            sum += error;
            if (!(error < 0.0f || error > 0.0f))
                continue;
            error *= l->pool == FF_POOL_MEAN ? scale / (float)window : scale;
            for (; at < end; at++) {
                struct window met = window_at(l, c, i * l->size + at / l->size, j * l->size + at % l->size);
                if (to_pixels)
                    add_side(&met, to, &met.pixels, from, &met.taps, error);
                else
                    add_side(&met, to, &met.taps, from, &met.pixels, error);
            }
        }
    return sum;
}

/* A step of a layer: first what goes on to the layer before, with the weights as they were, then the weights. */
static void learn_layer(const struct ff_net *net, const struct ff_unit *unit, int32_t layer)
{
    static const float one = 1.0f; /* the weight of no operation */
    const struct ff_layer *l = &unit->layers[layer];
    int32_t length = row_length(l);
    float *dx = ff_floats(net, l->dx);
    if (layer)
        memset(dx, 0, (size_t)(l->in_c * l->in_h * l->in_w) * sizeof *dx);
    for (int32_t c = 0; c < l->c; c++) {
        if (layer)
            spread(net, unit, layer, c, 1, dx, l->op == FF_NOTHING ? &one : row(net, l->weight, c, length), 1.0f);
        if (learns(net, l->weight)) {
            struct step s = step_begin(net, l->weight, c, length);
            float sum = spread(net, unit, layer, c, 0, s.to, ff_floats(net, l->x), s.scale);
            step_end(net, &s);
            if (l->bias >= 0)
                step_number(net, l->bias, c, sum);
        }
    }
}

static int layers_learn(const struct ff_net *net, const struct ff_unit *unit)
{
    for (int32_t k = 0; k < unit->count; k++)
        if (learns(net, unit->layers[k].weight))
            return 1;
    return 0;
}

enum ff_error ff_learn(struct ff_net *net, const uint8_t *image, int32_t label)
{
    const struct ff_model *m = net->model;
    int begins;
    if (!net->learns || (net->momentum > 0.0f && net->arena_bytes < m->momentum_bytes))
        return FF_ERROR_ARENA;
    if (label < 0 || label >= net->classes)
        return FF_ERROR_LABEL;
    begins = !ff_is_known(net, label);
    ff_floats(net, m->tensors[m->known].ram)[label] = 1.0f;
    receive_image(net, image);
    for (int32_t k = 0; k < m->unit_count; k++) {
        const struct ff_unit *unit = &m->units[k];
        int deep = !net->frozen && layers_learn(net, unit);
        run_layers(net, k, deep);
        if (deep || learns(net, unit->weight)) {
            float root = read_features(net, k);
            if (begins && learns(net, unit->weight))
                begin_row(net, unit, label);
            read_goodness(net, unit);
            learn_readout(net, unit, label, root);
        }
        for (int32_t l = unit->count - 1; deep && l >= 0; l--)
            learn_layer(net, unit, l);
        if (deep)
            net->counts = 0;
        hand_on(net, k);
    }
    {
        uint8_t *seen = net->arena + m->learned_names + (uint32_t)(m->rows - m->classes) * FF_NAME_BYTES;
        if (seen[label])
            seen[label]--;
    }
    net->updates++;
    net->examples++;
    return FF_OK;
}

/* ------------------------------------------------ beginning ------------------------------------------------ */

void ff_begin_tensor(const struct ff_net *net, const struct ff_tensor *t)
{
    size_t bytes = (size_t)t->count * (t->type == FF_COUNTS ? 2 : 1) * sizeof(float);
    if (t->ram == FF_FIXED)
        return;
    if (t->data)
        memcpy(net->arena + t->ram, t->data, bytes);
    else
        memset(net->arena + t->ram, 0, bytes);
}

enum ff_error ff_init(struct ff_net *net, const struct ff_model *model, void *arena, size_t bytes)
{
    memset(net, 0, sizeof *net);
    if (model->version != FF_VERSION)
        return FF_ERROR_MODEL;
#ifdef FF_USE_CMSIS_NN
    if (model->int8) { /* its scratch memory is behind the arena */
        bytes -= bytes < model->int8->cmsis_nn_bytes ? bytes : model->int8->cmsis_nn_bytes;
        bytes -= bytes % sizeof(float);
    }
#endif
    if (bytes < model->classify_bytes || (uintptr_t)arena % sizeof(float))
        return FF_ERROR_ARENA;
    net->model = model;
    net->arena = (unsigned char *)arena;
    net->arena_bytes = bytes > FF_FIXED ? FF_FIXED : (uint32_t)bytes;
    net->classes = model->classes;
    net->rate = model->rate;
    net->learns = model->learned_bytes > 0 && bytes >= model->learn_bytes;
    if (net->learns) {
        memset(net->arena + model->learned_names, 0,
               (size_t)(model->rows - model->classes) * FF_NAME_BYTES + (size_t)model->rows);
        for (int32_t t = 0; t < model->tensor_count; t++)
            ff_begin_tensor(net, &model->tensors[t]);
        if (model->counting)
            ff_begin_counting(net);
        if (bytes >= model->momentum_bytes)
            memset(net->arena + model->learn_bytes, 0, model->momentum_bytes - model->learn_bytes);
    }
    return FF_OK;
}

/* ------------------------------------------------ the golden check ------------------------------------------------ */

/* Keep in `worst` the largest error of an image's first `known` rows, as a share of the largest golden value. Golden
 * values are of `count` rows of all images, `step` apart, and this image's from row `first` on. */
static void judge(float *worst, const float *own, int32_t known, const float *golden, int32_t first, int32_t count,
                  int32_t step)
{
    float largest = 1e-30f;
    for (int32_t p = 0; p < count; p++)
        if (fabsf(golden[p * step]) > largest)
            largest = fabsf(golden[p * step]);
    for (int32_t p = 0; p < known; p++) {
        float error = fabsf(own[p] - golden[(first + p) * step]) / largest;
        if (!(error <= *worst))
            *worst = error >= 0.0f ? error : HUGE_VALF; /* NaN */
    }
}

enum ff_error ff_golden(struct ff_net *net, const struct ff_golden *golden, float *worst)
{
    const struct ff_model *m = net->model;
    int32_t pixels = m->channels * m->height * m->width, rows = m->rows, all = golden->count * rows, wrong = 0;
    float *own = ff_floats(net, m->goodness), *total = own + rows, margin;
    *worst = 0.0f;
    for (int32_t n = 0; n < golden->count; n++) {
        memset(total, 0, (size_t)rows * sizeof *total);
        receive_image(net, golden->images + n * pixels);
        for (int32_t k = 0; k < m->unit_count; k++) {
            run_layers(net, k, 0);
            if (m->units[k].cell_rows) {
                read_features(net, k);
                read_goodness(net, &m->units[k]);
                if (m->units[k].scored)
                    add_to_total(net, total, own, k);
                judge(worst, own, rows, golden->goodness + k, n * rows, all, m->unit_count);
            }
            hand_on(net, k);
        }
        judge(worst, total, net->classes, golden->total, n * rows, all, 1);
        wrong |= !m->int8 && answer(net, total, &margin) != answer(net, golden->total + n * rows, &margin);
    }
    return *worst <= golden->tolerance && !wrong ? FF_OK : FF_ERROR_GOLDEN;
}
