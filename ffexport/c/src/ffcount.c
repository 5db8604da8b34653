/* Classes told in closed form: counts, sums and a second moment of examples that images are, docs/bundle.md, "Class
 * statistics". Integers, so that adding is exact; the covariance is solved anew when an answer needs it. */

#include "ffparts.h"

#include <math.h>
#include <string.h>

#define STEPS 16.0f     /* of a quantized feature to 1 */
#define LARGEST 127
#define NO_FRACTION 12582912.0f /* 3 * 2^22: what is added to it is rounded to an integer */

/* ------------------------------------------------ where they are ------------------------------------------------ */

static int32_t *integers(const struct ff_net *net, uint32_t place)
{
    return (int32_t *)(void *)(net->arena + place);
}

/* Examples of a class that were counted here, and those of the training set. A count is the lower half of an int64. */
static int32_t *counted(const struct ff_net *net, int32_t label)
{
    return integers(net, net->model->counting->counted) + 2 * label;
}

static int32_t trained(const struct ff_net *net, int32_t label)
{
    return label < net->model->counting->classes ? net->model->counting->counts[label] : 0;
}

static int32_t *sums_here(const struct ff_net *net, int32_t label)
{
    return integers(net, net->model->counting->sums_here) + label * net->model->counting->dimension;
}

/* Numbers of a triangle's first rows. */
static int32_t triangle(int32_t dimension)
{
    return dimension * (dimension + 1) / 2;
}

/* Whether the units are those of the flash. */
static int are_units(const struct ff_net *net)
{
    const struct ff_model *m = net->model;
    for (int32_t k = 0; k < m->unit_count; k++)
        for (int32_t l = 0; l < m->units[k].count; l++) {
            int32_t weight = m->units[k].layers[l].weight, bias = m->units[k].layers[l].bias;
            if ((weight >= 0 && ff_has_changed(net, &m->tensors[weight])) ||
                (bias >= 0 && ff_has_changed(net, &m->tensors[bias])))
                return 0;
        }
    return 1;
}

void ff_begin_counting(struct ff_net *net)
{
    memset(net->arena + net->model->counting->origins, 0, FF_ORIGINS * FF_ORIGIN_BYTES);
    net->counts = (uint8_t)are_units(net);
    net->solved = 0;
}

int ff_has_changed(const struct ff_net *net, const struct ff_tensor *t)
{
    if (t->ram == FF_FIXED)
        return 0;
    return t->data ? memcmp(net->arena + t->ram, t->data, (size_t)t->count * sizeof(float)) != 0 : ff_has_counted(net);
}

int ff_has_counted(const struct ff_net *net)
{
    for (int32_t p = 0; net->model->counting && p < net->model->rows; p++)
        if (*counted(net, p))
            return 1;
    return 0;
}

/* ------------------------------------------------ an image as an example ---------------------------------------- */

/* Whether number i of SplitMix64 (Steele, Lea, Flood 2014) is in the upper half. */
static int is_upper(uint32_t seed, int32_t i)
{
    uint64_t z = seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (int)(z >> 63); /* the last step, z ^ z >> 31, leaves this bit as it is */
}

/* The nearest integer to 16 f, halves to the even one, from -127 to 127. */
static int32_t quantized(float feature)
{
    float value = feature * STEPS;
    volatile float whole = value + NO_FRACTION;
    if (!(value < (float)LARGEST))
        return LARGEST;
    return value < (float)-LARGEST ? -LARGEST : (int32_t)(whole - NO_FRACTION);
}

/* Whether a number has an odd number of ones. */
static int is_odd(uint32_t bits)
{
    bits ^= bits >> 8;
    bits ^= bits >> 4;
    return (int)(0x6996u >> (bits & 15u) & 1u);
}

void ff_project(const struct ff_net *net, const struct ff_unit *unit)
{
    const struct ff_counting *s = net->model->counting;
    const float *z = ff_floats(net, unit->z);
    int32_t *x = integers(net, s->x);
    if (unit->first == 0)
        memset(x, 0, (size_t)s->dimension * sizeof *x);
    for (int32_t f = 0; f < unit->features; f++) {
        int32_t value = quantized(z[f]), column = unit->first + f;
        if (value == 0)
            continue;
        if (is_upper(s->seed, column))
            value = -value;
        for (int32_t k = 0; k < s->dimension; k++)
            x[k] += is_odd(s->rows[k] & (uint32_t)column) ? -value : value;
    }
}

/* The sums of a pass become numbers from -127 to 127. A shift to the right keeps the sign. */
static void round_sums(const struct ff_net *net)
{
    const struct ff_counting *s = net->model->counting;
    int32_t *x = integers(net, s->x), half = 1 << s->shift >> 1;
    for (int32_t k = 0; k < s->dimension; k++) {
        int32_t value = (x[k] + half) >> s->shift;
        x[k] = value > LARGEST ? LARGEST : value < -LARGEST ? -LARGEST : value;
    }
}

enum ff_error ff_count(struct ff_net *net, const uint8_t *image, int32_t label)
{
    const struct ff_model *m = net->model;
    const struct ff_counting *s = m->counting;
    int32_t found, units, *x, *sums, *moment;
    if (!net->learns)
        return FF_ERROR_ARENA;
    if (label < 0 || label >= net->classes)
        return FF_ERROR_LABEL;
    if (!s || !net->counts || *counted(net, label) == FF_MOST_COUNTED)
        return FF_ERROR_COUNTS;
    moment = integers(net, s->moment);
    for (int32_t i = 0, at = 0; i < s->dimension; at += s->dimension - i++)
        if (moment[at] > INT32_MAX - LARGEST * LARGEST) /* no other number of it is larger than these */
            return FF_ERROR_COUNTS;
    ff_pass(net, image, ff_floats(net, m->goodness) + m->rows, &found, NULL, &units, 1);
    round_sums(net);
    x = integers(net, s->x);
    sums = sums_here(net, label);
    for (int32_t i = 0; i < s->dimension; i++) {
        sums[i] += x[i];
        for (int32_t j = i; j < s->dimension; j++, moment++)
            *moment = (int32_t)((uint32_t)*moment + (uint32_t)(x[i] * x[j]));
    }
    ++*counted(net, label);
    net->solved = 0;
    return FF_OK;
}

/* ------------------------------------------------ the covariance ------------------------------------------------ */

static void add_integers(float *to, const int32_t *from, float scale, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        to[i] += scale * (float)from[i];
}

/* Add scale times v vT to an upper triangle. */
static void add_outer(float *to, const float *v, float scale, int32_t dimension)
{
    for (int32_t i = 0; i < dimension; i++)
        for (int32_t j = i; j < dimension; j++)
            *to++ += scale * v[i] * v[j];
}

/* v becomes U^-T v, of which the numbers before `first` are 0; returns its squared length. */
static float solve(const float *u, float *v, int32_t first, int32_t dimension)
{
    float square = 0.0f;
    u += triangle(dimension) - triangle(dimension - first);
    for (int32_t i = first; i < dimension; u += dimension - i++) {
        v[i] /= u[0];
        square += v[i] * v[i];
        for (int32_t j = i + 1; j < dimension; j++)
            v[j] -= v[i] * u[j - i];
    }
    return square;
}

/* The factor U of A = UT U (Cholesky), in place. What is isotropic is the least that a pivot can be, but for what no
 * examples have. */
static void factorise(float *u, float least, int32_t dimension)
{
    for (int32_t i = 0; i < dimension; i++) {
        float root = sqrtf(u[0] > least ? u[0] : least), *row = u + dimension - i;
        u[0] = root;
        for (int32_t j = 1; j < dimension - i; j++)
            u[j] /= root;
        for (int32_t k = 1; k < dimension - i; k++)
            for (int32_t j = k; j < dimension - i; j++)
                *row++ -= u[k] * u[j];
        u += dimension - i;
    }
}

/* A, the prior and what was counted here: M - sum_c s sT / n, and n m / (n + m) times the outer product of the
 * difference of the two means, where the training set has m examples of a class. Then its factor, and what the error of
 * a mean of one example adds to a squared distance, on average. */
static void solve_covariance(struct ff_net *net)
{
    const struct ff_counting *s = net->model->counting;
    int32_t d = s->dimension;
    float *u = ff_floats(net, s->factor), *v = ff_floats(net, s->v), *about = ff_floats(net, s->about);
    float weight = s->examples, trace = 0.0f, inside;
    memcpy(u, s->prior, (size_t)triangle(d) * sizeof *u);
    add_integers(u, integers(net, s->moment), 1.0f, triangle(d));
    for (int32_t p = 0; p < net->classes; p++) {
        float n = (float)*counted(net, p), m = (float)trained(net, p);
        if (!(n > 0.0f))
            continue;
        weight += n;
        memset(v, 0, (size_t)d * sizeof *v);
        add_integers(v, sums_here(net, p), 1.0f / n, d);
        add_outer(u, v, -n, d);
        if (!(m > 0.0f))
            continue;
        add_integers(v, s->sums + p * d, -1.0f / m, d);
        add_outer(u, v, n * m / (n + m), d);
    }
    factorise(u, s->isotropic, d);
    for (int32_t i = 0; i < d; i++) {
        memset(v, 0, (size_t)d * sizeof *v);
        v[i] = 1.0f;
        trace += solve(u, v, i, d);
    }
    inside = (float)d - s->isotropic * trace;
    about[0] = weight;
    about[1] = weight > s->share && inside > 0.0f ? weight / (weight - s->share) * inside : 0.0f;
    net->solved = 1;
}

/* ------------------------------------------------ answers ------------------------------------------------ */

static float larger(float a, float b)
{
    return a > b ? a : b;
}

int ff_counts_answer(const struct ff_net *net)
{
    const struct ff_counting *s = net->model->counting;
    return s && net->counts && (s->beside > 0.0f || net->classes > s->together);
}

int ff_counts_alone(const struct ff_net *net)
{
    for (int32_t p = 0; net->counts && p < net->classes; p++)
        if (!ff_is_known(net, p) && *counted(net, p) + trained(net, p) > 0)
            return 1;
    return 0;
}

/* The log-likelihood of a class, but for what all have in common; infinite: it has no examples. */
static float likelihood(const struct ff_net *net, int32_t label)
{
    const struct ff_counting *s = net->model->counting;
    const float *about = ff_floats(net, s->about);
    float *v = ff_floats(net, s->v), n = (float)*counted(net, label) + (float)trained(net, label);
    int32_t d = s->dimension;
    if (!(n > 0.0f))
        return HUGE_VALF;
    memset(v, 0, (size_t)d * sizeof *v);
    add_integers(v, sums_here(net, label), -1.0f / n, d);
    if (trained(net, label))
        add_integers(v, s->sums + label * d, -1.0f / n, d);
    add_integers(v, integers(net, s->x), 1.0f, d);
    return -0.5f * (solve(ff_floats(net, s->factor), v, 0, d) * about[0] - about[1] / n);
}

int32_t ff_answer(struct ff_net *net, float *goodness)
{
    const struct ff_counting *s = net->model->counting;
    float *told = ff_floats(net, net->model->goodness), beside = s->beside, later = s->alone, offset = 0.0f;
    float least = HUGE_VALF, most = -HUGE_VALF, first = -HUGE_VALF, first_told = -HUGE_VALF, top = -HUGE_VALF;
    int32_t best = 0, counted_first = 0;
    if (!net->solved)
        solve_covariance(net);
    round_sums(net);
    for (int32_t p = 0; p < net->classes; p++) {
        told[p] = likelihood(net, p);
        if (told[p] < least)
            least = told[p];
        if (ff_is_known(net, p))
            most = larger(most, goodness[p]);
    }
    for (int32_t p = 0; p < net->classes; p++) { /* what is not told gets the least, and what has no row the most */
        int counts = told[p] < HUGE_VALF;
        if (!counts)
            told[p] = least < HUGE_VALF ? least : 0.0f;
        if (!ff_is_known(net, p)) {
            goodness[p] = most > -HUGE_VALF ? most : 0.0f;
        } else if (p < s->together) { /* the best of the classes that the network was trained on */
            counted_first |= counts;
            first = larger(first, goodness[p]);
            first_told = larger(first_told, told[p]);
            top = larger(top, goodness[p] + beside * told[p]);
        }
    }
    if (top > -HUGE_VALF) {
        later = counted_first ? later : 0.0f;
        offset = top - first - later * first_told;
    } else {
        beside = later;
    }
    for (int32_t p = 0; p < net->classes; p++) {
        goodness[p] += p < s->together ? beside * told[p] : offset + later * told[p];
        if (goodness[p] > goodness[best])
            best = p;
    }
    return best;
}
