/* A network on an emulated Cortex-M, which proves itself and says what it takes. Semihosting is its only input and
 * output. Beside the program there may be
 *
 *     classify.bin   images: what is told of them goes to goodness.bin, FF_ROWS floats each
 *     learn.bin      images, each behind a byte that is its label: one step from each, in their order. The label
 *                    FF_CLASSES is a class that the network never saw. What was learned goes to learned.state
 *
 * Lines of a name and a number say the rest: instructions (with QEMU's -icount shift=0), bytes of stack.
 */
#include "model.h"

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define INSTRUCTIONS_PER_TICK 40u /* one a nanosecond, and SysTick counts at 25 MHz */

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, SYS_EXIT = 0x18 };

extern uint32_t stack_used(void);

static uint32_t arena[FF_ARENA_WORDS];
static struct ff_net net;
static uint8_t example[1 + FF_IMAGE_BYTES];
static float goodness[FF_ROWS];

static int32_t call(uint32_t operation, const void *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

/* mode: of fopen, 1 "rb", 5 "wb". Negative: there is no such file. */
static int32_t open_file(const char *name, uint32_t mode)
{
    uint32_t length = 0, arguments[3];
    while (name[length])
        length++;
    arguments[0] = (uint32_t)name;
    arguments[1] = mode;
    arguments[2] = length;
    return call(SYS_OPEN, arguments);
}

static int read_file(int32_t file, void *bytes, uint32_t count)
{
    uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, count};
    return call(SYS_READ, arguments) == 0; /* how many were not read */
}

static int write_file(void *file, const void *bytes, uint32_t count)
{
    uint32_t arguments[3] = {*(uint32_t *)file, (uint32_t)bytes, count};
    return call(SYS_WRITE, arguments) != 0;
}

static void close_file(int32_t file)
{
    call(SYS_CLOSE, &file);
}

static void say(const char *name, uint32_t value)
{
    char line[12];
    char *at = line + sizeof line - 1;
    *at = '\0';
    *--at = '\n';
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    call(SYS_WRITE0, name);
    call(SYS_WRITE0, " ");
    call(SYS_WRITE0, at);
}

static void start_counting(void)
{
    SYST_CSR = 0;
    SYST_RVR = 0xFFFFFFu;
    SYST_CVR = 0;
    SYST_CSR = 5; /* on, of the processor's clock */
}

static uint32_t instructions(void)
{
    return (0xFFFFFFu - SYST_CVR) * INSTRUCTIONS_PER_TICK;
}

static void end(uint32_t error)
{
    say("error", error);
    call(SYS_EXIT, (const void *)(error ? 0x20024u : 0x20026u));
}

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

static void learn_all(void)
{
    int32_t from = open_file("learn.bin", 1), to, label;
    for (uint32_t n = 0; from >= 0 && read_file(from, example, sizeof example); n++) {
        if (example[0] == net.classes)
            require(ff_new_class(&net, "new", &label));
        start_counting();
        require(ff_learn(&net, example + 1, example[0]));
        if (n == 0)
            say("learn_instructions", instructions());
    }
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
