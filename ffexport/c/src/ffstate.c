/* What was learned, as a file, and back: docs/state.md. A file is a safetensors file, whose header is JSON. */

#include "ffparts.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a state file is little-endian, and so must the processor be"
#endif

#define FORMAT 1
#define PIECE 64 /* bytes that are read at a time */

/* ------------------------------------------------ SHA-256, FIPS 180-4 ------------------------------------------ */

struct sha {
    uint32_t state[8];
    uint64_t count; /* of bytes */
    uint8_t block[64];
};

static const uint32_t sha_begin[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint32_t sha_round[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turn(uint32_t x, unsigned bits)
{
    return x >> bits | x << (32u - bits);
}

static void sha_block(struct sha *s)
{
    uint32_t w[16], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | (uint32_t)s->block[4 * i + 3];
    memcpy(v, s->state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[0], e = v[4], x = w[(i + 1) & 15], y = w[(i + 14) & 15];
        uint32_t first = v[7] + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & v[5]) ^ (~e & v[6]));
        uint32_t second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        first += sha_round[i] + w[i & 15];
        for (int k = 7; k > 0; k--)
            v[k] = v[k - 1] + (k == 4 ? first : 0);
        v[0] = first + second;
        w[i & 15] += (turn(x, 7) ^ turn(x, 18) ^ x >> 3) + w[(i + 9) & 15] + (turn(y, 17) ^ turn(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 8; i++)
        s->state[i] += v[i];
}

static void sha_start(struct sha *s)
{
    memcpy(s->state, sha_begin, sizeof s->state);
    s->count = 0;
}

static void sha_add(struct sha *s, const void *bytes, uint32_t count)
{
    const uint8_t *from = (const uint8_t *)bytes;
    for (uint32_t i = 0; i < count; i++) {
        s->block[s->count++ % 64] = from[i];
        if (s->count % 64 == 0)
            sha_block(s);
    }
}

/* The digest in lower-case hexadecimal: 64 characters and a 0. */
static void sha_end(struct sha *s, char *hex)
{
    uint64_t bits = s->count * 8;
    uint8_t byte = 0x80;
    do {
        sha_add(s, &byte, 1);
        byte = 0;
    } while (s->count % 64 != 56);
    for (int shift = 56; shift >= 0; shift -= 8) {
        byte = (uint8_t)(bits >> shift);
        sha_add(s, &byte, 1);
    }
    for (int i = 0; i < 64; i++)
        hex[i] = "0123456789abcdef"[s->state[i / 8] >> (28 - 4 * (i % 8)) & 15u];
    hex[64] = '\0';
}

/* ------------------------------------------------ names of classes ------------------------------------------------ */

static char *learned_name(const struct ff_net *net, int32_t label)
{
    return (char *)net->arena + net->model->learned_names + (uint32_t)(label - net->model->classes) * FF_NAME_BYTES;
}

/* How many examples each class still lacks until it is no longer undertrained, by label. */
static uint8_t *seen(const struct ff_net *net)
{
    return (uint8_t *)learned_name(net, net->model->rows);
}

const char *ff_name(const struct ff_net *net, int32_t label)
{
    if (label < 0 || label >= net->classes)
        return NULL;
    return label < net->model->classes ? net->model->names[label] : learned_name(net, label);
}

/* First and last of what may stand in no name: control characters, marks of direction, lines' ends, surrogates, and what
 * is no character. */
static const uint32_t not_printed[] = {0x0,    0x1f,   0x7f,   0x9f,   0x61c,  0x61c,  0x200e,   0x200f,
                                       0x2028, 0x202e, 0x2066, 0x2069, 0xd800, 0xdfff, 0x110000, 0xffffffff};

/* Bytes of the UTF-8 character at `text`, before `end`, that may stand in a name; 0: there is none. */
static uint32_t printable(const char *text, const char *end)
{
    const uint8_t *t = (const uint8_t *)text;
    uint32_t bytes = t[0] < 0x80 ? 1u : t[0] >= 0xf0 ? 4u : t[0] >= 0xe0 ? 3u : 2u, point = t[0];
    if (t[0] >= 0x80 && (t[0] < 0xc2 || t[0] > 0xf4))
        return 0;
    if ((uint32_t)(end - text) < bytes)
        return 0;
    if (bytes > 1)
        point &= 0x7fu >> bytes;
    for (uint32_t i = 1; i < bytes; i++) {
        if ((t[i] & 0xc0u) != 0x80)
            return 0;
        point = point << 6 | (t[i] & 0x3fu);
    }
    if ((bytes == 3 && point < 0x800) || (bytes == 4 && point < 0x10000))
        return 0;
    for (uint32_t i = 0; i < sizeof not_printed / sizeof *not_printed; i += 2)
        if (point >= not_printed[i] && point <= not_printed[i + 1])
            return 0;
    return bytes;
}

static int is_name(const char *text, uint32_t length)
{
    const char *end = text + length;
    if (length == 0 || length >= FF_NAME_BYTES)
        return 0;
    while (text < end) {
        uint32_t bytes = printable(text, end);
        if (bytes == 0)
            return 0;
        text += bytes;
    }
    return 1;
}

/* Whether a name is a text of so many bytes. */
static int same(const char *name, const char *text, uint32_t length)
{
    uint32_t i = 0;
    while (i < length && name[i] && name[i] == text[i])
        i++;
    return i == length && !name[i];
}

enum ff_error ff_new_class(struct ff_net *net, const char *name, int32_t *label)
{
    uint32_t length = 0;
    if (!net->learns)
        return FF_ERROR_ARENA;
    while (length < FF_NAME_BYTES && name[length])
        length++;
    if (!is_name(name, length))
        return FF_ERROR_NAME;
    for (int32_t p = 0; p < net->classes; p++)
        if (same(ff_name(net, p), name, length))
            return FF_ERROR_NAME;
    if (net->classes == net->model->rows)
        return FF_ERROR_ROWS;
    *label = net->classes++;
    memcpy(learned_name(net, *label), name, length + 1);
    seen(net)[*label] = FF_WELL_KNOWN;
    return FF_OK;
}

/* ------------------------------------------------ saving ------------------------------------------------ */

struct sink {           /* where text goes: into a hash, to a callback, or nowhere, to be counted */
    struct sha *sha;
    ff_write write;
    void *context;
    uint32_t count;     /* bytes so far */
    uint32_t depth;     /* of JSON strings in JSON strings */
    int failed;
};

static void put(struct sink *sink, const void *bytes, uint32_t count)
{
    sink->count += count;
    if (sink->sha)
        sha_add(sink->sha, bytes, count);
    else if (sink->write && !sink->failed)
        sink->failed = sink->write(sink->context, bytes, count);
}

/* Each string that text is in has a backslash before every quote and backslash. No other character needs one. */
static void put_text(struct sink *sink, const char *text)
{
    for (; *text; text++) {
        uint32_t escapes = *text == '"' || *text == '\\' ? (1u << sink->depth) - 1 : 0;
        while (escapes--)
            put(sink, "\\", 1);
        put(sink, text, 1);
    }
}

static void put_string(struct sink *sink, const char *text)
{
    put_text(sink, "\"");
    sink->depth++;
    put_text(sink, text);
    sink->depth--;
    put_text(sink, "\"");
}

/* A number, and the text before it. */
static void put_number(struct sink *sink, const char *before, uint32_t value)
{
    char digits[10];
    uint32_t at = sizeof digits;
    put_text(sink, before);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    put(sink, digits + at, (uint32_t)sizeof digits - at);
}

/* The names of all classes, or of the undertrained ones. */
static void put_names(struct sink *sink, const struct ff_net *net, int undertrained)
{
    const char *comma = "";
    put_text(sink, "[");
    for (int32_t p = 0; p < net->classes; p++) {
        if (undertrained && !seen(net)[p])
            continue;
        put_text(sink, comma);
        put_string(sink, ff_name(net, p));
        comma = ",";
    }
    put_text(sink, "]");
}

/* How images became class statistics, and whose examples these are of. */
static void put_counting(struct sink *sink, const struct ff_net *net)
{
    const struct ff_counting *s = net->model->counting;
    const char *origin = (const char *)net->arena + s->origins, *comma = "";
    put_number(sink, "{\"dimension\":", (uint32_t)s->dimension);
    put_number(sink, ",\"seed\":", s->seed);
    put_text(sink, "},\"origins\":[");
    for (int i = 0; i < FF_ORIGINS && *origin; i++, origin += FF_ORIGIN_BYTES) {
        put_text(sink, comma);
        put_string(sink, origin);
        comma = ",";
    }
    put_text(sink, "]}");
}

static void put_state(struct sink *sink, const struct ff_net *net)
{
    put_text(sink, "{\"format\":1,\"weights\":\"");
    put_text(sink, net->model->hash);
    put_text(sink, "\",\"classes\":");
    put_names(sink, net, 0);
    put_text(sink, ",\"undertrained\":");
    put_names(sink, net, 1);
    put_number(sink, ",\"updates\":", net->updates);
    put_number(sink, ",\"examples\":", net->examples);
    put_text(sink, ",\"ffedge\":\"");
    put_text(sink, net->model->made_with);
    put_text(sink, "\",\"statistics\":");
    if (ff_has_counted(net))
        put_counting(sink, net);
    else
        put_text(sink, "null}");
}

static int has_row_a_class(const struct ff_tensor *t)
{
    return t->type == FF_COUNTS || t->type == FF_SUMS;
}

static uint32_t number_bytes(const struct ff_tensor *t)
{
    return t->type == FF_COUNTS ? 8u : 4u;
}

/* Bytes of a tensor in a file of so many classes: class statistics have a row for each. */
static uint32_t bytes_in_file(const struct ff_tensor *t, int32_t classes)
{
    return (uint32_t)(has_row_a_class(t) ? t->count / t->shape[0] * classes : t->count) * number_bytes(t);
}

static const char *type_in_file(const struct ff_tensor *t)
{
    return t->type == FF_COUNTS ? "I64" : t->type == FF_SUMS || t->type == FF_MOMENT ? "I32" : "F32";
}

static void put_header(struct sink *sink, const struct ff_net *net, const char *hash)
{
    uint32_t offset = 0;
    put_text(sink, "{\"__metadata__\":{\"state\":\"");
    sink->depth++;
    put_state(sink, net);
    sink->depth--;
    put_text(sink, "\",\"sha256\":\"");
    put_text(sink, hash);
    put_text(sink, "\"}");
    for (int32_t i = 0; i < net->model->tensor_count; i++) {
        const struct ff_tensor *t = &net->model->tensors[i];
        if (!ff_has_changed(net, t))
            continue;
        put_text(sink, ",\"");
        put_text(sink, t->name);
        put_text(sink, "\":{\"dtype\":\"");
        put_text(sink, type_in_file(t));
        put_text(sink, "\",\"shape\":[");
        for (int32_t d = 0; d < t->dimensions; d++) {
            put_number(sink, d ? "," : "", (uint32_t)(d == 0 && has_row_a_class(t) ? net->classes : t->shape[d]));
        }
        put_number(sink, "],\"data_offsets\":[", offset);
        offset += bytes_in_file(t, net->classes);
        put_number(sink, ",", offset);
        put_text(sink, "]}");
    }
    put_text(sink, "}");
    while (sink->count % 8 != 0)
        put_text(sink, " ");
}

/* Whether four bytes of a tensor may be there: a float32 is a number, not all of its exponent's bits are set. */
static int is_finite(const struct ff_tensor *t, const uint8_t *bytes)
{
    return t->type > FF_FLOAT16 || (bytes[3] & 0x7fu) != 0x7fu || (bytes[2] & 0x80u) == 0;
}

enum ff_error ff_save(struct ff_net *net, ff_write write, void *context)
{
    const struct ff_model *m = net->model;
    struct sha sha;
    struct sink hashed = {&sha, NULL, NULL, 0, 0, 0}, counted = {NULL, NULL, NULL, 0, 0, 0}, file = counted;
    char hash[65];
    uint8_t length[8] = {0};
    if (!net->learns)
        return FF_ERROR_ARENA;
    sha_start(&sha);
    put_state(&hashed, net);
    for (int32_t i = 0; i < m->tensor_count; i++) {
        const struct ff_tensor *t = &m->tensors[i];
        uint32_t bytes = bytes_in_file(t, net->classes);
        if (!ff_has_changed(net, t))
            continue;
        for (uint32_t at = 0; at < bytes; at += 4)
            if (!is_finite(t, net->arena + t->ram + at))
                return FF_ERROR_DIVERGED;
        put_text(&hashed, t->name);
        put(&hashed, net->arena + t->ram, bytes);
    }
    sha_end(&sha, hash);
    put_header(&counted, net, hash);
    for (int i = 0; i < 4; i++)
        length[i] = (uint8_t)(counted.count >> 8 * i);
    file.write = write;
    file.context = context;
    put(&file, length, 8);
    file.count = 0; /* the header is padded by itself */
    put_header(&file, net, hash);
    for (int32_t i = 0; i < m->tensor_count; i++)
        if (ff_has_changed(net, &m->tensors[i]))
            put(&file, net->arena + m->tensors[i].ram, bytes_in_file(&m->tensors[i], net->classes));
    return file.failed ? FF_ERROR_IO : FF_OK;
}

/* ------------------------------------------------ JSON ------------------------------------------------ */

struct text {          /* what is left of a text, which is decoded where it stands */
    char *at, *end;
    int bad;           /* not the JSON that was expected; from then on nothing is read */
};

struct string {
    const char *at;
    uint32_t length;
};

static void skip_space(struct text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\t' || *t->at == '\n' || *t->at == '\r'))
        t->at++;
}

static int next_is(struct text *t, char wanted)
{
    skip_space(t);
    if (t->bad || t->at == t->end || *t->at != wanted)
        return 0;
    t->at++;
    return 1;
}

static void expect(struct text *t, char wanted)
{
    if (!next_is(t, wanted))
        t->bad = 1;
}

/* Whether there is one more in an object or array of which `count` were read; what closes it is read. */
static int more(struct text *t, uint32_t count, char closing)
{
    if (t->bad || next_is(t, closing))
        return 0;
    if (count)
        expect(t, ',');
    return !t->bad;
}

static uint32_t hex_digits(struct text *t)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = t->at < t->end ? *t->at++ : ' ';
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16u;
        if (digit > 15)
            t->bad = 1;
        value = value << 4 | (digit & 15u);
    }
    return value;
}

/* A character as UTF-8, which is never longer than its escape. */
static char *put_point(char *to, uint32_t point)
{
    int behind = (point >= 0x80) + (point >= 0x800) + (point >= 0x10000), shift = 6 * behind;
    *to++ = (char)(point >> shift | (behind ? 0x1f80u >> behind & 0xf0u : 0));
    while (shift) {
        shift -= 6;
        *to++ = (char)(0x80u | (point >> shift & 0x3fu));
    }
    return to;
}

/* A string, its escapes decoded in place. */
static struct string read_string(struct text *t)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    struct string found = {NULL, 0};
    char *to;
    expect(t, '"');
    found.at = to = t->at;
    while (!t->bad) {
        char c = t->at < t->end ? *t->at++ : '\0';
        if (c == '"')
            break;
        if ((uint8_t)c < 0x20) {
            t->bad = 1; /* a control character, or the text ends */
        } else if (c != '\\') {
            *to++ = c;
        } else if (t->at < t->end && *t->at == 'u') {
            uint32_t point;
            t->at++;
            point = hex_digits(t);
            if (point >= 0xd800 && point < 0xdc00 && t->end - t->at >= 6 && t->at[0] == '\\' && t->at[1] == 'u') {
                uint32_t low;
                t->at += 2;
                low = hex_digits(t);
                if (low < 0xdc00 || low > 0xdfff)
                    t->bad = 1;
                point = 0x10000u + ((point - 0xd800u) << 10) + (low & 0x3ffu);
            } else if (point >= 0xd800 && point < 0xe000) {
                t->bad = 1;
            }
            to = put_point(to, point);
        } else {
            uint32_t which = 0;
            while (from[which] && (t->at == t->end || from[which] != *t->at))
                which++;
            t->bad = !from[which];
            *to++ = into[which];
            t->at++;
        }
    }
    found.length = t->bad ? 0 : (uint32_t)(to - found.at);
    return found;
}

static struct string read_key(struct text *t)
{
    struct string key = read_string(t);
    expect(t, ':');
    return key;
}

/* An integer from 0 to 2^32 - 1. */
static uint32_t read_number(struct text *t)
{
    uint64_t value = 0;
    int digits = 0;
    skip_space(t);
    while (!t->bad && t->at < t->end && *t->at >= '0' && *t->at <= '9') {
        if (digits++ && value == 0)
            t->bad = 1; /* a leading 0 */
        value = value * 10 + (uint64_t)(*t->at++ - '0');
        if (value > 0xffffffffu)
            t->bad = 1;
    }
    if (digits == 0 || (t->at < t->end && (*t->at == '.' || *t->at == 'e' || *t->at == 'E')))
        t->bad = 1;
    return t->bad ? 0 : (uint32_t)value;
}

static void read_word(struct text *t, const char *word)
{
    while (*word)
        expect(t, *word++);
}

static int is(struct string s, const char *text)
{
    return s.at && same(text, s.at, s.length);
}

/* The next field of an object, one of `names` with NULL behind them: its index. No field may be there twice: those that
 * were have a bit in `fields`. */
static uint32_t read_field(struct text *t, const char *const *names, uint32_t *fields)
{
    struct string key = read_key(t);
    uint32_t field = 0;
    while (names[field] && !is(key, names[field]))
        field++;
    if (!names[field] || (*fields >> field & 1u))
        t->bad = 1;
    *fields |= 1u << field;
    return field;
}

/* ------------------------------------------------ loading ------------------------------------------------ */

struct file {          /* a state file while it is read; arrays lie in the arena's scratch */
    struct ff_net *net;
    ff_read read;
    void *context;
    uint32_t *begin, *bytes; /* of each tensor's data: where in the file, how many; FF_FIXED: not in it */
    uint32_t *name;          /* of each class that was learned: where in the scratch */
    uint8_t *lacking;        /* as `seen` */
    uint32_t data, end;      /* where the data begin, and the file ends */
    struct string state, hash;
    uint32_t updates, examples;
    int32_t classes;
    struct string origin[FF_ORIGINS];
    int counted;             /* whether it has class statistics */
};

static enum ff_error read_header(struct file *f, struct text *header)
{
    const struct ff_model *m = f->net->model;
    uint32_t count = (uint32_t)m->tensor_count, rows = (uint32_t)m->rows, room;
    uint32_t taken = (uint32_t)sizeof(uint32_t) * (2 * count + rows) + (rows + 3) / 4 * 4;
    uint8_t length[8];
    if (f->end < 8)
        return FF_ERROR_FORMAT;
    if (f->read(f->context, 0, length, 8) != 0)
        return FF_ERROR_IO;
    f->data = (uint32_t)length[0] | (uint32_t)length[1] << 8 | (uint32_t)length[2] << 16 | (uint32_t)length[3] << 24;
    if (length[4] || length[5] || length[6] || length[7] || f->data > f->end - 8)
        return FF_ERROR_FORMAT;
    if (taken > m->scratch_bytes || f->data > m->scratch_bytes - taken)
        return FF_ERROR_FORMAT;
    f->begin = (uint32_t *)(void *)f->net->arena;
    f->bytes = f->begin + count;
    f->name = f->bytes + count;
    f->lacking = (uint8_t *)(f->name + rows);
    memset(f->begin, 0xff, count * sizeof *f->begin);
    memset(f->bytes, 0, taken - count * sizeof *f->begin);
    header->at = (char *)f->net->arena + taken;
    header->end = header->at + f->data;
    header->bad = 0;
    room = f->data;
    f->data += 8;
    return f->read(f->context, 8, header->at, room) != 0 ? FF_ERROR_IO : FF_OK;
}

static void read_metadata(struct file *f, struct text *t)
{
    expect(t, '{');
    for (uint32_t count = 0; more(t, count, '}'); count++) {
        struct string key = read_key(t), value = read_string(t);
        if (is(key, "state"))
            f->state = value;
        else if (is(key, "sha256"))
            f->hash = value;
    }
}

/* Read so many bytes of a tensor, from `at` on; returns 0, or what the callback does where it fails. */
static int fetch(const struct file *f, int32_t tensor, uint32_t at, void *bytes, uint32_t count)
{
    return f->read(f->context, f->data + f->begin[tensor] + at, bytes, count);
}

static int32_t find_tensor(const struct ff_model *m, struct string name)
{
    for (int32_t i = 0; i < m->tensor_count; i++)
        if (is(name, m->tensors[i].name))
            return i;
    return -1;
}

static void read_entry(struct file *f, struct text *t, int32_t index)
{
    static const char *const names[] = {"dtype", "shape", "data_offsets", NULL};
    const struct ff_tensor *tensor = &f->net->model->tensors[index];
    uint32_t fields = 0, dimensions = 0, begin = 0, end = 0, count_of_rows = 0;
    int here = tensor->type != FF_ELSEWHERE;
    expect(t, '{');
    for (uint32_t count = 0; more(t, count, '}'); count++) {
        switch (read_field(t, names, &fields)) {
        case 0: {
            struct string type = read_string(t);
            if (here ? !is(type, type_in_file(tensor)) : !is(type, "I32") && !is(type, "I64"))
                t->bad = 1;
            break;
        }
        case 1:
            expect(t, '[');
            for (; more(t, dimensions, ']'); dimensions++) {
                uint32_t side = read_number(t);
                if (dimensions == 0 && has_row_a_class(tensor)) {
                    count_of_rows = side;
                    t->bad |= side > (uint32_t)tensor->shape[0];
                } else if (here && (dimensions >= tensor->dimensions || side != (uint32_t)tensor->shape[dimensions])) {
                    t->bad = 1;
                }
            }
            break;
        default:
            expect(t, '[');
            begin = read_number(t);
            expect(t, ',');
            end = read_number(t);
            expect(t, ']');
        }
    }
    if (fields != 7 || begin > end || end > f->end - f->data || f->begin[index] != FF_FIXED)
        t->bad = 1;
    if (here && !t->bad &&
        (dimensions != tensor->dimensions || end - begin != bytes_in_file(tensor, (int32_t)count_of_rows)))
        t->bad = 1;
    f->begin[index] = begin;
    f->bytes[index] = end - begin;
}

/* Whether the tensors follow each other without gap or overlap, and cover the data. */
static int covers(const struct file *f)
{
    int32_t count = f->net->model->tensor_count, left = 0;
    uint32_t at = 0;
    for (int32_t i = 0; i < count; i++)
        left += f->bytes[i] != 0;
    for (int32_t i = 0; i < count; i++)
        if (f->bytes[i] && f->begin[i] == at) {
            at += f->bytes[i];
            left--;
            i = -1; /* the next one is anywhere */
        }
    return left == 0 && at == f->end - f->data;
}

static enum ff_error read_tensors(struct file *f, struct text *t)
{
    expect(t, '{');
    for (uint32_t count = 0; more(t, count, '}'); count++) {
        struct string key = read_key(t);
        int32_t index = is(key, "__metadata__") ? -1 : find_tensor(f->net->model, key);
        if (index >= 0)
            read_entry(f, t, index);
        else if (is(key, "__metadata__"))
            read_metadata(f, t);
        else
            t->bad = 1;
    }
    skip_space(t);
    return t->bad || t->at != t->end || !f->state.at || !f->hash.at || !covers(f) ? FF_ERROR_FORMAT : FF_OK;
}

/* Whether a number may be that of a row in labels.known: 1 of the bundle's classes, 0 beyond those of the file. */
static int may_be_known(const struct file *f, int32_t row, const uint8_t *bytes)
{
    const struct ff_model *m = f->net->model;
    float value;
    memcpy(&value, bytes, sizeof value);
    return (row < f->classes && value >= 1.0f && value <= 1.0f) ||
           ((row >= m->classes || ((const float *)m->tensors[m->known].data)[row] < 1.0f) && value >= 0.0f &&
            value <= 0.0f);
}

/* Whether class statistics may be of examples: of each class few enough to be counted on, and a sum that so many of -127
 * to 127 can have. Counts and sums are of the same classes, as many as the file has at most. */
static enum ff_error check_counts(const struct file *f, int *wrong)
{
    const struct ff_tensor *tensors = f->net->model->tensors;
    int32_t counts = 0, sums = 0;
    uint32_t row;
    while (tensors[counts].type != FF_COUNTS)
        counts++;
    while (tensors[sums].type != FF_SUMS)
        sums++;
    if (f->begin[counts] == FF_FIXED || f->begin[sums] == FF_FIXED)
        return FF_OK;
    row = (uint32_t)tensors[sums].count / (uint32_t)tensors[sums].shape[0];
    if (f->bytes[sums] != f->bytes[counts] / 2 * row || f->bytes[counts] > 8u * (uint32_t)f->classes) {
        *wrong = 1;
        return FF_OK;
    }
    for (uint32_t p = 0; p < f->bytes[counts] / 8; p++) {
        int32_t count[2], sum;
        if (fetch(f, counts, 8 * p, count, 8) != 0)
            return FF_ERROR_IO;
        if (count[1] != 0 || count[0] < 0 || count[0] > FF_MOST_COUNTED) {
            *wrong = 1;
            return FF_OK;
        }
        for (uint32_t i = 0; i < row; i++) {
            if (fetch(f, sums, 4 * (p * row + i), &sum, 4) != 0)
                return FF_ERROR_IO;
            if (sum > 127 * count[0] || sum < -127 * count[0])
                *wrong = 1;
        }
    }
    return FF_OK;
}

/* The hash of the file's content is what it says; every number is finite, and no row is known that must not be. Flags
 * what is wrong beside the hash. */
static enum ff_error check_content(struct file *f, struct sink *hashed, int *wrong)
{
    const struct ff_model *m = f->net->model;
    char hex[65];
    uint8_t piece[PIECE];
    for (int32_t i = 0; i < m->tensor_count; i++) {
        if (f->begin[i] == FF_FIXED)
            continue;
        put_text(hashed, m->tensors[i].name);
        for (uint32_t at = 0; at < f->bytes[i]; at += PIECE) {
            uint32_t count = f->bytes[i] - at < PIECE ? f->bytes[i] - at : PIECE;
            if (fetch(f, i, at, piece, count) != 0)
                return FF_ERROR_IO;
            put(hashed, piece, count);
            for (uint32_t b = 0; b + 4 <= count; b += 4) {
                if (!is_finite(&m->tensors[i], piece + b) || (i == m->known && !may_be_known(f, (int32_t)((at + b) / 4), piece + b)))
                    *wrong = 1;
            }
        }
    }
    sha_end(hashed->sha, hex);
    if (!is(f->hash, hex))
        return FF_ERROR_HASH;
    return m->counting ? check_counts(f, wrong) : FF_OK;
}

static const char *name_in(const struct file *f, int32_t label)
{
    return label < f->net->model->classes ? f->net->model->names[label] : (const char *)f->net->arena + f->name[label];
}

/* The names of a file's classes: the bundle's, then others, all different, each closed by a 0 where its quote was. */
static void read_classes(struct file *f, struct text *t)
{
    const struct ff_model *m = f->net->model;
    expect(t, '[');
    for (f->classes = 0; more(t, (uint32_t)f->classes, ']'); f->classes++) {
        struct string name = read_string(t);
        int32_t label = f->classes;
        if (t->bad || label == m->rows) {
            t->bad = 1;
        } else if (label < m->classes) {
            t->bad = !is(name, m->names[label]);
        } else {
            char *text = (char *)f->net->arena + (name.at - (const char *)f->net->arena);
            text[name.length] = '\0';
            f->name[label] = (uint32_t)(name.at - (const char *)f->net->arena);
            t->bad = !is_name(name.at, name.length);
            for (int32_t p = 0; p < label && !t->bad; p++)
                t->bad = is(name, name_in(f, p));
        }
        if (t->bad)
            return;
    }
}

static void read_undertrained(struct file *f, struct text *t)
{
    int32_t label = 0;
    expect(t, '[');
    for (uint32_t count = 0; more(t, count, ']'); count++) {
        struct string name = read_string(t);
        while (label < f->classes && !is(name, name_in(f, label)))
            label++;
        if (label >= f->classes) {
            t->bad = 1; /* none of the classes, or not in their order */
            return;
        }
        f->lacking[label++] = FF_WELL_KNOWN;
    }
}

static void read_projection(struct file *f, struct text *t)
{
    const struct ff_counting *s = f->net->model->counting;
    static const char *const names[] = {"dimension", "seed", "moment", "root", NULL};
    uint32_t fields = 0;
    f->counted = 1;
    for (uint32_t count = 0; more(t, count, '}'); count++) {
        uint32_t field = read_field(t, names, &fields);
        if (field == 2) { /* one of each class */
            read_string(t);
        } else if (field == 3) {
            read_word(t, "true");
        } else {
            uint32_t value = read_number(t);
            if (s && value != (field ? s->seed : (uint32_t)s->dimension))
                t->bad = 1;
        }
    }
    if ((fields & 3u) != 3 || (s && fields != 3))
        t->bad = 1;
}

/* Whose examples class statistics are of: each closed by a 0 where its quote was. */
static void read_origins(struct file *f, struct text *t)
{
    expect(t, '[');
    for (uint32_t count = 0; more(t, count, ']'); count++) {
        struct string origin = read_string(t);
        if (!f->net->model->counting)
            continue;
        if (t->bad || count == FF_ORIGINS || origin.length >= FF_ORIGIN_BYTES || !is_name(origin.at, origin.length)) {
            t->bad = 1;
            return;
        }
        f->origin[count] = origin;
    }
}

/* The fields of the state. `classes` must come before `undertrained`, as it is written. */
static enum ff_error read_state(struct file *f, struct text *t, int *other)
{
    static const char *const names[] = {"format",   "weights", "classes",    "undertrained", "updates",
                                        "examples", "ffedge",  "statistics", "origins",      NULL};
    uint32_t fields = 0, format;
    expect(t, '{');
    for (uint32_t count = 0; more(t, count, '}'); count++) {
        switch (read_field(t, names, &fields)) {
        case 0:
            format = read_number(t);
            if (format > FORMAT)
                return FF_ERROR_NEWER;
            t->bad |= format == 0;
            break;
        case 1: {
            struct string hash = read_string(t);
            *other = !is(hash, f->net->model->hash);
            break;
        }
        case 2:
            read_classes(f, t);
            break;
        case 3:
            t->bad |= !(fields & 4u);
            read_undertrained(f, t);
            break;
        case 4:
            f->updates = read_number(t);
            break;
        case 5:
            f->examples = read_number(t);
            break;
        case 6:
            read_string(t);
            break;
        case 7:
            if (next_is(t, '{'))
                read_projection(f, t);
            else
                read_word(t, "null");
            break;
        default:
            read_origins(f, t);
        }
    }
    skip_space(t);
    return t->bad || t->at != t->end || (fields & 0x7fu) != 0x7fu || f->classes < f->net->model->classes
               ? FF_ERROR_FORMAT
               : FF_OK;
}

/* Take what was found right: weights, names, counts. */
static enum ff_error take(struct file *f)
{
    struct ff_net *net = f->net;
    const struct ff_model *m = net->model;
    enum ff_error result = FF_OK;
    for (int32_t i = 0; i < m->tensor_count; i++) {
        const struct ff_tensor *t = &m->tensors[i];
        if (t->ram == FF_FIXED)
            continue;
        if (f->begin[i] == FF_FIXED || has_row_a_class(t))
            ff_begin_tensor(net, t);
        if (f->begin[i] != FF_FIXED && fetch(f, i, 0, net->arena + t->ram, f->bytes[i]) != 0)
            result = FF_ERROR_IO;
    }
    if (result != FF_OK) {
        ff_init(net, m, net->arena, net->arena_bytes);
        return result;
    }
    for (int32_t label = m->classes; label < f->classes; label++) {
        const char *from = name_in(f, label);
        for (char *to = learned_name(net, label); (*to = *from) != '\0'; to++)
            from++;
    }
    if (m->counting) {
        ff_begin_counting(net);
        for (int i = 0; i < FF_ORIGINS && f->origin[i].at; i++)
            memcpy(net->arena + m->counting->origins + i * FF_ORIGIN_BYTES, f->origin[i].at, f->origin[i].length);
    }
    memcpy(seen(net), f->lacking, (size_t)m->rows);
    net->classes = f->classes;
    net->updates = f->updates;
    net->examples = f->examples;
    if (net->arena_bytes >= m->momentum_bytes)
        memset(net->arena + m->learn_bytes, 0, m->momentum_bytes - m->learn_bytes);
    return FF_OK;
}

enum ff_error ff_load(struct ff_net *net, ff_read read, void *context, uint32_t bytes)
{
    const struct ff_model *m = net->model;
    struct file f;
    struct text header, state;
    struct sha sha;
    struct sink hashed = {&sha, NULL, NULL, 0, 0, 0};
    enum ff_error error;
    int wrong = 0, other = 0, fixed = 0;
    memset(&f, 0, sizeof f);
    f.net = net;
    f.read = read;
    f.context = context;
    f.end = bytes;
    if (!net->learns)
        return FF_ERROR_ARENA;
    error = read_header(&f, &header);
    if (error == FF_OK)
        error = read_tensors(&f, &header);
    if (error != FF_OK)
        return error;
    sha_start(&sha);
    put(&hashed, f.state.at, f.state.length); /* as it is, before its strings are decoded in place */
    state.at = (char *)net->arena + (f.state.at - (const char *)net->arena);
    state.end = state.at + f.state.length;
    state.bad = 0;
    error = read_state(&f, &state, &other);
    if (error == FF_OK)
        error = check_content(&f, &hashed, &wrong);
    if (error != FF_OK)
        return error;
    if (other)
        return FF_ERROR_OTHER;
    for (int32_t i = 0; i < m->tensor_count; i++) {
        if (m->tensors[i].type >= FF_ELSEWHERE)
            wrong |= (f.begin[i] != FF_FIXED) != f.counted;
        else if (f.begin[i] != FF_FIXED && m->tensors[i].ram == FF_FIXED)
            fixed = 1;
    }
    if (wrong)
        return FF_ERROR_FORMAT;
    return fixed ? FF_ERROR_FIXED : take(&f);
}
