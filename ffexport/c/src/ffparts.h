/* What the files of ffedge share, and nobody else needs. */
#ifndef FFPARTS_H
#define FFPARTS_H

#include "ffedge.h"

/* ffedge.c */

static inline float *ff_floats(const struct ff_net *net, uint32_t place)
{
    return (float *)(void *)(net->arena + place);
}

/* Whether a class has a row in the readouts. */
int ff_is_known(const struct ff_net *net, int32_t label);

/* The goodness of every row, up to the first unit that is sure by `margins` (NULL: none is), and the label of the most
 * among the rows that are known; with `counting` the image becomes an example of class statistics, too. */
void ff_pass(const struct ff_net *net, const uint8_t *image, float *goodness, int32_t *label, const float *margins,
             int32_t *units, int counting);

/* A tensor that is in RAM becomes what it is in flash. */
void ff_begin_tensor(const struct ff_net *net, const struct ff_tensor *t);

/* ffcount.c */

#define FF_MOST_COUNTED (1 << 24) /* examples of a class: no sum overflows before that */

/* No examples from elsewhere, and whether class statistics are of the units as they are. */
void ff_begin_counting(struct ff_net *net);

/* A unit's features go into the example that the image of this pass is. */
void ff_project(const struct ff_net *net, const struct ff_unit *unit);

/* Whether class statistics have a part in answers; and whether they alone know a class. */
int ff_counts_answer(const struct ff_net *net);
int ff_counts_alone(const struct ff_net *net);

/* The network's goodness becomes the scores of both, after a pass that was counting. Returns the best label. */
int32_t ff_answer(struct ff_net *net, float *goodness);

/* Whether there are examples of class statistics. */
int ff_has_counted(const struct ff_net *net);

/* Whether a tensor is another than in flash; of class statistics, whether there are examples. */
int ff_has_changed(const struct ff_net *net, const struct ff_tensor *t);

#endif
