/* A network on an emulated Cortex-M, which proves itself and says what it takes. Semihosting is its only input and
 * output. Beside the program there may be
 *
 *     classify.bin   images: what is told of them goes to goodness.bin, FF_ROWS floats each
 *     count.bin      images, each behind a byte that is its label: each counts in closed form, in their order
 *     learn.bin      images, each behind a byte that is its label: one step from each, in their order. The label
 *                    FF_CLASSES, of both, is a class that the network never saw. What was learned goes to learned.state
 *
 * Lines of a name and a number say the rest: instructions (with QEMU's -icount shift=0), bytes of stack.
 */
#include "model.h"
#include "semihosting.h"

static uint32_t arena[FF_ARENA_WORDS];
static struct ff_net net;
static uint8_t example[1 + FF_IMAGE_BYTES];
static float goodness[FF_ROWS];

static void require(enum ff_error error)
{
    if (error != FF_OK)
        end((uint32_t)error);
}

static void classify_all(void)
{
    int32_t from = open_file("classify.bin", 1), to = from < 0 ? -1 : open_file("goodness.bin", 5), label;
    for (uint32_t n = 0; to >= 0 && read_file(from, example, FF_IMAGE_BYTES); n++) {
        start_counting();
        require(ff_classify(&net, example, goodness, &label));
        if (n == 0) {
            say("classify_instructions", instructions());
            say("classify_stack", stack_used());
        }
        write_file(&to, goodness, sizeof goodness);
    }
    close_file(to);
}

/* What an answer takes with class statistics: the first after an example, which solves the covariance, and the next. */
static void classify_again(void)
{
    int32_t label;
    start_counting();
    require(ff_classify(&net, example + 1, goodness, &label));
    say("solve_instructions", instructions());
    start_counting();
    require(ff_classify(&net, example + 1, goodness, &label));
    say("counted_instructions", instructions());
}

/* Show every example of a file to `take`. */
static void take_all(const char *file, const char *name, enum ff_error (*take)(struct ff_net *, const uint8_t *, int32_t))
{
    int32_t from = open_file(file, 1), label;
    for (uint32_t n = 0; from >= 0 && read_file(from, example, sizeof example); n++) {
        if (example[0] == net.classes)
            require(ff_new_class(&net, "new", &label));
        start_counting();
        require(take(&net, example + 1, example[0]));
        if (n == 0)
            say(name, instructions());
    }
}

static void learn_all(void)
{
    int32_t to;
    take_all("count.bin", "count_instructions", ff_count);
    if (net.classes > FF_CLASSES)
        classify_again();
    take_all("learn.bin", "learn_instructions", ff_learn);
    say("learn_stack", stack_used());
    to = open_file("learned.state", 5);
    require(ff_save(&net, write_file, &to));
    close_file(to);
    say("save_stack", stack_used());
}

static int read_state(void *context, uint32_t offset, void *bytes, uint32_t count)
{
    uint32_t arguments[2] = {*(uint32_t *)context, offset};
    return call(0x0A /* SYS_SEEK */, arguments) != 0 || !read_file(*(int32_t *)context, bytes, count);
}

static void load_again(void)
{
    int32_t from = open_file("learned.state", 1), bytes;
    bytes = call(0x0C /* SYS_FLEN */, &from);
    require(ff_load(&net, read_state, &from, (uint32_t)bytes));
    close_file(from);
    say("load_stack", stack_used());
}

int main(void)
{
    float worst;
    require(ff_init(&net, &ff_model, arena, sizeof arena));
    say("net_bytes", sizeof net);
    require(ff_golden(&net, &ff_golden_vectors, &worst));
    say("golden_error_e9", (uint32_t)(worst * 1e9f));
    classify_all();
#ifndef FF_CLASSIFY_ONLY
    learn_all();
    load_again();
#endif
    end(0);
    return 0;
}
