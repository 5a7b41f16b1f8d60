/* SPDX-License-Identifier: Apache-2.0 */
/* comm_cases.c - see comm_cases.h. */
#include "tests/expect.h"
#include "tests/comm_cases.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* Byte i of rank r's data. */
static unsigned char byte_of(unsigned seed, int r, uint64_t i)
{
    return (unsigned char)zero_splitmix64(seed * 1000003u + (unsigned)r * 7919u + i / 8 * 64) + (unsigned char)(i * 37);
}

/* Element i of rank r's data. The magnitudes differ so much that the bits of a sum show its order. */
static float value_of(unsigned seed, int r, int64_t i)
{
    uint64_t h = zero_splitmix64(seed ^ zero_splitmix64((uint64_t)i * 31 + (uint64_t)r));
    float scale[4] = {1e-3f, 1.0f, 37.0f, 900.0f};
    return ((float)(h & 0xffff) / 32768.0f - 1.0f) * scale[(h >> 16) & 3];
}

static float load(const void *p, zero_dtype_t dtype, int64_t i)
{
    return dtype == ZERO_FP32   ? ((const float *)p)[i]
           : dtype == ZERO_BF16 ? zero_bf16_to_fp32(((const uint16_t *)p)[i])
                                : zero_fp16_to_fp32(((const uint16_t *)p)[i]);
}

static void store(void *p, zero_dtype_t dtype, int64_t i, float value)
{
    if (dtype == ZERO_FP32)
        ((float *)p)[i] = value;
    else
        ((uint16_t *)p)[i] = dtype == ZERO_BF16 ? zero_fp32_to_bf16(value) : zero_fp32_to_fp16(value);
}

/* The place of the communicator's operands: host memory, or, if device is not NULL, an arena of the device. */
typedef struct place {
    zero_device_t *device;
    void *native;
    zero_arena_t *arena;
} place_t;

static const place_t on_host = {0};

/* Returns an operand with the contents of the host's bytes [data, data + bytes), at offset in the arena. */
static void *operand(const place_t *p, void *data, uint64_t offset, uint64_t bytes)
{
    zero_error_t e = {0};
    if (!p->device)
        return data;
    char *there = (char *)p->device->ops->arena_base(p->arena) + offset;
    if (bytes && p->device->ops->copy(p->device, p->native, there, data, bytes, &e) != ZERO_OK) {
        fprintf(stderr, "copy to the device: %s\n", e.text);
        exit(1);
    }
    return there;
}

/* Copies an operand back to the host. */
static int result(const place_t *p, void *data, const void *there, uint64_t bytes)
{
    if (!p->device || !bytes)
        return 0;
    EXPECT_OK(p->device->ops->copy(p->device, p->native, data, there, bytes, error));
    EXPECT_OK(p->device->ops->finish(p->device, p->native, 60, error));
    return 0;
}

static int gather_case(zero_comm_t *c, const place_t *p, uint64_t bytes, int mode, unsigned seed)
{
    enum { COPY, IN_PLACE, EXCHANGE };
    uint64_t before = c->bytes_received;
    unsigned char *recv = malloc((size_t)c->size * bytes + 1), *send = malloc(bytes + 1);
    EXPECT(recv && send);
    memset(recv, 0xee, (size_t)c->size * bytes + 1);
    unsigned char *from = mode == IN_PLACE ? recv + (size_t)c->rank * bytes : send;
    for (uint64_t i = 0; i < bytes; i++)
        from[i] = byte_of(seed, c->rank, i);
    if (mode == EXCHANGE)
        EXPECT_OK(zero_comm_exchange(c, from, recv, bytes, error));
    else {
        uint64_t total = (uint64_t)c->size * bytes + 1;
        char *r = operand(p, recv, 0, total), *s = operand(p, send, total, bytes + 1);
        s = mode == IN_PLACE ? r + (size_t)c->rank * bytes : s;
        EXPECT_OK(zero_comm_all_gather(c, s, r, bytes, p->native, error));
        if (result(p, recv, r, total))
            return 1;
    }
    EXPECT(c->bytes_received - before == (mode == EXCHANGE ? 0 : (uint64_t)(c->size - 1) * bytes));
    for (int r = 0; r < c->size; r++)
        for (uint64_t i = 0; i < bytes; i++)
            if (recv[(size_t)r * bytes + i] != byte_of(seed, r, i)) {
                fprintf(stderr, "%s gather of %llu bytes (mode %d): rank %d has a wrong byte %llu of rank %d of %d\n",
                        zero_comm_name(c), (unsigned long long)bytes, mode, c->rank, (unsigned long long)i, r, c->size);
                return 1;
            }
    EXPECT(recv[(size_t)c->size * bytes] == 0xee);
    free(recv);
    free(send);
    return 0;
}

static int reduce_case(zero_comm_t *c, const place_t *p, int64_t count, zero_dtype_t dtype, bool in_place,
                       unsigned seed)
{
    size_t element = zero_dtype_size(dtype), bytes = (size_t)c->size * (size_t)count * element;
    uint64_t before = c->bytes_reduced;
    char *send = malloc(bytes + 1), *other = malloc((size_t)count * element + 1), *kept = malloc(bytes + 1);
    EXPECT(send && other && kept);
    for (int64_t i = 0; i < c->size * count; i++)
        store(send, dtype, i, value_of(seed, c->rank, i));
    memcpy(kept, send, bytes);
    other[(size_t)count * element] = 0x5a;
    char *recv = in_place ? send + (size_t)c->rank * (size_t)count * element : other;
    uint64_t room = (bytes + 1 + 127) / 128 * 128;
    char *from = operand(p, send, 0, bytes + 1), *to = operand(p, other, room, (uint64_t)count * element + 1);
    to = in_place ? from + (size_t)c->rank * (size_t)count * element : to;
    EXPECT_OK(zero_comm_reduce_scatter(c, from, to, count, dtype, p->native, error));
    if (result(p, send, from, bytes + 1) || (!in_place && result(p, other, to, (uint64_t)count * element + 1)))
        return 1;
    EXPECT(c->bytes_reduced - before == (uint64_t)(c->size - 1) * (uint64_t)count * element);
    for (int64_t i = 0; i < count; i++) {
        char wanted[4], operand[4];
        float sum = 0;
        for (int r = 0; r < c->size; r++) {
            store(operand, dtype, 0, value_of(seed, r, c->rank * count + i));
            sum = r == 0 ? load(operand, dtype, 0) : sum + load(operand, dtype, 0);
        }
        store(wanted, dtype, 0, sum);
        if (memcmp(wanted, recv + (size_t)i * element, element)) {
            fprintf(stderr, "%s reduce-scatter of %lld %s (in place %d): rank %d of %d has %.9g at %lld, wanted %.9g\n",
                    zero_comm_name(c), (long long)count, zero_dtype_name(dtype), in_place, c->rank, c->size,
                    load(recv, dtype, i), (long long)i, load(wanted, dtype, 0));
            return 1;
        }
    }
    /* The send buffer keeps its values. */
    size_t own = (size_t)c->rank * (size_t)count * element, end = own + (size_t)count * element;
    if (in_place)
        EXPECT(memcmp(send, kept, own) == 0 && memcmp(send + end, kept + end, bytes - end) == 0);
    else
        EXPECT(memcmp(send, kept, bytes) == 0 && other[(size_t)count * element] == 0x5a);
    free(send);
    free(other);
    free(kept);
    return 0;
}

/* Rank r has, for each rank, other bytes: those of rank r * size + that rank. */
static int trade_case(zero_comm_t *c, const place_t *p, uint64_t bytes, unsigned seed)
{
    uint64_t before = c->bytes_received, total = (uint64_t)c->size * bytes + 1, room = (total + 127) / 128 * 128;
    unsigned char *send = malloc(total), *recv = malloc(total), *kept = malloc(total);
    EXPECT(send && recv && kept);
    memset(send, 0xee, total);
    memset(recv, 0xee, total);
    for (int r = 0; r < c->size; r++)
        for (uint64_t i = 0; i < bytes; i++)
            send[(uint64_t)r * bytes + i] = byte_of(seed, c->rank * c->size + r, i);
    memcpy(kept, send, total);
    char *from = operand(p, send, 0, total), *to = operand(p, recv, room, total);
    EXPECT_OK(zero_comm_all_to_all(c, from, to, bytes, p->native, error));
    if (result(p, send, from, total) || result(p, recv, to, total))
        return 1;
    EXPECT(c->bytes_received - before == (uint64_t)(c->size - 1) * bytes);
    for (int r = 0; r < c->size; r++)
        for (uint64_t i = 0; i < bytes; i++)
            if (recv[(uint64_t)r * bytes + i] != byte_of(seed, r * c->size + c->rank, i)) {
                fprintf(stderr, "%s all-to-all of %llu bytes: rank %d has a wrong byte %llu of rank %d of %d\n",
                        zero_comm_name(c), (unsigned long long)bytes, c->rank, (unsigned long long)i, r, c->size);
                return 1;
            }
    EXPECT(recv[total - 1] == 0xee && memcmp(send, kept, total) == 0);
    free(send);
    free(recv);
    free(kept);
    return 0;
}

/* In a link, rank sender sends. */
static int transfer_case(zero_comm_t *c, const place_t *p, uint64_t bytes, int sender, unsigned seed)
{
    const bool sends = c->rank == sender;
    const uint64_t sent = c->bytes_sent, arrived = c->bytes_arrived;
    unsigned char *data = malloc(bytes + 1);
    EXPECT(data);
    memset(data, 0xee, bytes + 1);
    for (uint64_t i = 0; i < bytes && sends; i++)
        data[i] = byte_of(seed, sender, i);
    char *there = operand(p, data, 0, bytes + 1);
    EXPECT_OK(sends ? zero_comm_send(c, there, bytes, p->native, error)
                    : zero_comm_recv(c, there, bytes, p->native, error));
    if (result(p, data, there, bytes + 1))
        return 1;
    EXPECT(c->bytes_sent - sent == (sends ? bytes : 0) && c->bytes_arrived - arrived == (sends ? 0 : bytes));
    for (uint64_t i = 0; i < bytes; i++)
        if (data[i] != byte_of(seed, sender, i)) {
            fprintf(stderr, "%s transfer of %llu bytes from rank %d: rank %d has a wrong byte %llu\n",
                    zero_comm_name(c), (unsigned long long)bytes, sender, c->rank, (unsigned long long)i);
            return 1;
        }
    EXPECT(data[bytes] == 0xee);
    free(data);
    return 0;
}

static int cases(zero_comm_t *c, const place_t *p, unsigned seed)
{
    static const uint64_t bytes[] = {0, 1, 3, 64, 127, 4096, 5000, 65537, 262144, 1000003, 3000001};
    static const int64_t counts[] = {0, 1, 5, 127, 128, 1001, 40000, 300007};
    EXPECT(c->caps.in_place && (p->device ? c->caps.device_pointers : c->caps.host_pointers) &&
           zero_comm_rank(c) == c->rank && zero_comm_size(c) == c->size);
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        for (int mode = 0; mode < 3; mode++)
            if (gather_case(c, p, bytes[i], mode, seed + (unsigned)i))
                return 1;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int dtype = 0; dtype < ZERO_DTYPE_COUNT; dtype++)
            for (int in_place = 0; in_place < 2; in_place++)
                if (reduce_case(c, p, counts[i], (zero_dtype_t)dtype, in_place, seed + (unsigned)i))
                    return 1;
    static const uint64_t traded[] = {0, 1, 132, 4096, 65537, 1000003};
    for (size_t i = 0; i < sizeof traded / sizeof *traded; i++)
        if (trade_case(c, p, traded[i], seed + (unsigned)i))
            return 1;
    EXPECT_OK(zero_comm_check(c, error));
    return 0;
}

int comm_cases(zero_comm_t *c, unsigned seed)
{
    return cases(c, &on_host, seed);
}

int comm_cases_on(zero_comm_t *c, zero_device_t *device, void *native, unsigned seed)
{
    place_t p = {.device = device, .native = native};
    /* The largest operands are those of a gather. */
    EXPECT_OK(
        device->ops->arena_create(device, ZERO_TIER_DEVICE, ((uint64_t)c->size + 1) * 3000001 + 4096, &p.arena, error));
    int failed = cases(c, &p, seed);
    device->ops->arena_destroy(p.arena);
    return failed;
}

static int transfer_cases(zero_comm_t *c, const place_t *p, unsigned seed)
{
    static const uint64_t bytes[] = {0, 1, 3, 127, 4096, 5000, 65537, 262144, 1000003, 3000001};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        for (int k = 0; k < 4; k++)
            if (transfer_case(c, p, bytes[i], k == 2, seed + (unsigned)(4 * i) + (unsigned)k))
                return 1;
    for (int k = 0; k < 3; k++)
        if (gather_case(c, p, 5000, k, seed) || transfer_case(c, p, 300000, k % 2, seed) ||
            reduce_case(c, p, 1001, ZERO_FP32, k == 1, seed))
            return 1;
    return 0;
}

int comm_transfer_cases(zero_comm_t *c, unsigned seed)
{
    return transfer_cases(c, &on_host, seed);
}

static int pair_cases(zero_comm_t *c, const place_t *p, unsigned seed)
{
    const bool alone = c->rank == c->size - 1 && c->size % 2;
    zero_comm_t *pair = c;
    zero_error_t e = {0};
    char byte = 0;
    EXPECT(zero_comm_split(c, c->rank == c->size - 1 ? -2 : 0, 0, &pair, &e) == ZERO_ERR_ARG && pair == NULL);
    EXPECT(e.rank == c->size - 1 && has_names(e.text, "-2"));
    EXPECT(c->size == 2 || (zero_comm_link(c, 7, 0, &pair, &e) == ZERO_ERR_ARG && has_names(e.text, "7")));
    EXPECT(c->size == 1 || (c->rank ? zero_comm_link : zero_comm_split)(c, 0, 0, &pair, &e) == ZERO_ERR_MISMATCH);
    EXPECT(zero_comm_send(c, &byte, 1, p->native, &e) == ZERO_ERR_ARG && has_names(e.text, "zero_comm_send"));
    EXPECT(zero_comm_recv(c, &byte, 1, p->native, &e) == ZERO_ERR_ARG && has_names(e.text, "zero_comm_recv"));
    EXPECT_OK(zero_comm_link(c, alone ? -1 : c->rank / 2, -c->rank, &pair, error));
    EXPECT((pair == NULL) == alone && (alone || (pair->size == 2 && pair->rank == 1 - c->rank % 2)));
    if (pair && transfer_cases(pair, p, seed))
        return 1;
    zero_comm_destroy(pair);
    EXPECT_OK(zero_comm_exchange(c, &e, &e, 0, error));
    return 0;
}

int comm_pair_cases(zero_comm_t *c, unsigned seed)
{
    return pair_cases(c, &on_host, seed);
}

int comm_pair_cases_on(zero_comm_t *c, zero_device_t *device, void *native, unsigned seed)
{
    place_t p = {.device = device, .native = native};
    EXPECT_OK(device->ops->arena_create(device, ZERO_TIER_DEVICE, 3000001 + 4096, &p.arena, error));
    int failed = pair_cases(c, &p, seed);
    device->ops->arena_destroy(p.arena);
    return failed;
}

int comm_ring_cases(zero_comm_t *c)
{
    zero_comm_caps_t caps;
    EXPECT_OK(zero_comm_describe(zero_comm_name(c), c->size, &c->options, &caps, error));
    EXPECT(strcmp(caps.name, c->caps.name) == 0 && caps.ring_bytes == c->caps.ring_bytes &&
           caps.in_place == c->caps.in_place && caps.host_pointers == c->caps.host_pointers &&
           caps.device_pointers == c->caps.device_pointers);
    uint64_t own, others;
    zero_comm_resident(c, &own, &others);
    EXPECT(own == c->caps.ring_bytes);
    return 0;
}

int comm_split_cases(zero_comm_t *c)
{
    zero_comm_t *part, *again;
    /* Splits by parity, in reverse order. */
    EXPECT_OK(zero_comm_split(c, c->rank & 1, -c->rank, &part, error));
    EXPECT(part->size == (c->size + 1 - (c->rank & 1)) / 2);
    EXPECT(part->rank == part->size - 1 - c->rank / 2);
    EXPECT(strcmp(zero_comm_name(part), zero_comm_name(c)) == 0);
    if (comm_ring_cases(part) || comm_cases(part, 100 + (c->rank & 1)))
        return 1;
    /* The parent is independent of the part, and still works. */
    if (gather_case(c, &on_host, 5000, 0, 3))
        return 1;
    /* A split of a split, with equal keys: the order stays. */
    EXPECT_OK(zero_comm_split(part, 7, 0, &again, error));
    EXPECT(again->rank == part->rank && again->size == part->size);
    zero_comm_destroy(part);
    if (comm_cases(again, 200 + (c->rank & 1)))
        return 1;
    zero_comm_destroy(again);
    return gather_case(c, &on_host, 70000, 1, 4);
}

int comm_differ_cases(zero_comm_t *c, int kind)
{
    static char data[4 * 200000], recv[4 * 200000];
    const bool odd = c->rank == c->size - 1;
    zero_comm_note_t note = {.key = 1 + odd,
                             .words = {[0] = (uint64_t)c->rank, [ZERO_COMM_WORDS - 1] = 77 + (uint64_t)c->rank}};
    zero_error_t e = {0};
    zero_status_t status = ZERO_OK;
    switch (kind) {
    case 0:
        status = odd ? zero_comm_reduce_scatter(c, data, recv, 16, ZERO_FP32, NULL, &e)
                     : zero_comm_all_gather(c, data, recv, 64, NULL, &e);
        break;
    case 1: /* one call needs many steps, or lets others read its memory; the other sends a few bytes */
        status =
            odd ? zero_control_exchange(c, data, recv, 8, &e) : zero_comm_all_gather(c, data, recv, 199999, NULL, &e);
        break;
    case 2:
        status = zero_comm_all_gather(c, data, recv, odd ? 5004 : 5000, NULL, &e);
        break;
    case 3:
        status = zero_comm_reduce_scatter(c, data, recv, odd ? 4000 : 8000, odd ? ZERO_FP32 : ZERO_BF16, NULL, &e);
        break;
    case 4: /* calls that move no bytes */
        status = odd ? zero_comm_reduce_scatter(c, data, recv, 0, ZERO_FP32, NULL, &e)
                     : zero_control_exchange(c, data, recv, 0, &e);
        break;
    case 5:
        status = odd ? zero_comm_reduce_scatter(c, data, recv, 1000, ZERO_FP32, NULL, &e)
                     : zero_comm_all_to_all(c, data, recv, 4000, NULL, &e);
        break;
    default: /* the same call with another note */
        c->note = &note;
        status = zero_control_exchange(c, data, recv, 64, &e);
    }
    if (status == ZERO_ERR_MISMATCH) {
        int other = c->other.rank;
        EXPECT(other >= 0 && other < c->size && other != c->rank && (odd || other == c->size - 1));
        EXPECT(c->note == NULL || (c->other.note.key == (odd ? 1u : 2u) && c->other.note.words[0] == (uint64_t)other &&
                                   c->other.note.words[ZERO_COMM_WORDS - 1] == 77 + (uint64_t)other));
        zero_comm_fail(c, &e);
    } else
        EXPECT(status == ZERO_ERR_PEER);
    EXPECT(e.reason == ZERO_REASON_CALLS_DIFFER && e.rank >= 0 &&
           (kind != 2 || (has_names(e.text, "5000") && has_names(e.text, "5004"))));
    for (size_t i = 0; i < sizeof recv; i++)
        EXPECT(recv[i] == 0); /* the sent data is 0, too: nothing else arrived */
    EXPECT(zero_control_exchange(c, data, recv, 64, &e) != ZERO_OK);
    return 0;
}

typedef struct thread_arg {
    zero_comm_t *comm;
    unsigned seed;
    int result;
} thread_arg_t;

static void *thread_main(void *p)
{
    thread_arg_t *a = p;
    a->result = comm_cases(a->comm, a->seed);
    return NULL;
}

int comm_thread_cases(zero_comm_t *c)
{
    enum { THREADS = 4 };
    thread_arg_t a[THREADS];
    pthread_t threads[THREADS];
    int result = 0;
    for (int i = 0; i < THREADS; i++) {
        a[i] = (thread_arg_t){.seed = 1000 + (unsigned)i, .result = 1};
        EXPECT_OK(zero_comm_split(c, 0, i & 1 ? -c->rank : c->rank, &a[i].comm, error));
    }
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, thread_main, &a[i]) == 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        result |= a[i].result;
    }
    for (int i = 0; i < THREADS; i++)
        zero_comm_destroy(a[i].comm);
    return result;
}

enum { LINKS = 4, LINK_MOST = 1500003 };

typedef struct link_arg {
    zero_comm_t *link;
    place_t place;
    zero_stream_t *stream;
    int sender;    /* its rank in link */
    unsigned seed; /* of the link */
    int result;
} link_arg_t;

static void *link_main(void *p)
{
    enum { TRANSFERS = 60 };
    static const uint64_t bytes[] = {4096, 1, 700001, 0, 65536, 129, LINK_MOST};
    link_arg_t *a = p;
    int result = 0;
    for (unsigned i = 0; i < TRANSFERS && !result; i++)
        result = transfer_case(a->link, &a->place, bytes[(i + a->seed) % 7], a->sender, a->seed + i);
    a->result = result;
    return NULL;
}

/* Makes a stream and memory of the device for a link. */
static int open_place(link_arg_t *a, zero_device_t *device)
{
    a->place.device = device;
    if (!device)
        return 0;
    EXPECT_OK(device->ops->stream_create(device, ZERO_STREAM_GATHER, &a->stream, error));
    a->place.native = device->ops->native(a->stream);
    EXPECT_OK(device->ops->arena_create(device, ZERO_TIER_DEVICE, LINK_MOST + 1, &a->place.arena, error));
    return 0;
}

int comm_link_cases(zero_comm_t *c, zero_device_t *device)
{
    link_arg_t a[LINKS];
    pthread_t threads[LINKS];
    int count = 0, result = 0;
    /* The link after rank e, in both directions. */
    for (int e = 0; e < c->size; e++)
        for (int back = 0; back < 2; back++) {
            const int next = (e + 1) % c->size;
            const bool mine = c->rank == e || c->rank == next;
            zero_comm_t *link;
            EXPECT_OK(zero_comm_link(c, mine ? 0 : -1, c->rank == next, &link, error));
            EXPECT((link != NULL) == mine);
            if (!mine)
                continue;
            EXPECT(count < LINKS && link->size == 2 && link->rank == (c->rank == next));
            a[count] = (link_arg_t){.link = link, .sender = back, .seed = 100 * (unsigned)(2 * e + back)};
            if (open_place(&a[count++], device))
                return 1;
        }
    EXPECT(count == LINKS);
    for (int i = 0; i < LINKS; i++)
        EXPECT(pthread_create(&threads[i], NULL, link_main, &a[i]) == 0);
    for (int i = 0; i < LINKS; i++) {
        pthread_join(threads[i], NULL);
        result |= a[i].result;
    }
    for (int i = 0; i < LINKS; i++) {
        zero_comm_destroy(a[i].link);
        if (a[i].stream)
            device->ops->stream_destroy(a[i].stream);
        if (a[i].place.arena)
            device->ops->arena_destroy(a[i].place.arena);
    }
    return result;
}

int comm_unmet_cases(zero_comm_t *c, int kind, int a, int b)
{
    static char data[2 * 1200000], recv[2 * 1200000];
    const bool odd = c->rank == 1;
    zero_comm_note_t note = {.key = 1 + odd, .words = {[0] = 5 + (uint64_t)odd}};
    zero_error_t e = {0};
    zero_status_t status = ZERO_OK;
    const char *wanted = "";
    char names[40];
    memset(data, 1, sizeof data);
    switch (kind) {
    case 0:
        wanted = "send recv 5000 5004";
        status = odd ? zero_comm_recv(c, recv, 5004, NULL, &e) : zero_comm_send(c, data, 5000, NULL, &e);
        break;
    case 1: /* one through many slots or from the memory of the other, the other through one slot */
        wanted = "send recv 1200000 1";
        status = odd ? zero_comm_send(c, data, 1200000, NULL, &e) : zero_comm_recv(c, recv, 1, NULL, &e);
        break;
    case 2:
        wanted = "send recv 1200000 8";
        status = odd ? zero_comm_recv(c, recv, 1200000, NULL, &e) : zero_comm_send(c, data, 8, NULL, &e);
        break;
    case 3:
        wanted = "send recv 0 1";
        status = odd ? zero_comm_recv(c, recv, 1, NULL, &e) : zero_comm_send(c, data, 0, NULL, &e);
        break;
    case 4:
    case 5:
        wanted = "send";
        status = zero_comm_send(c, data, kind == 4 ? 64 : 1200000, NULL, &e);
        break;
    case 6:
        wanted = "recv";
        status = zero_comm_recv(c, recv, 64, NULL, &e);
        break;
    case 7:
        wanted = "all-gather recv";
        status = odd ? zero_comm_recv(c, recv, 64, NULL, &e) : zero_comm_all_gather(c, data, recv, 64, NULL, &e);
        break;
    default: /* a send that meets its recv, for another purpose */
        wanted = "purpose";
        c->note = &note;
        status = odd ? zero_comm_recv(c, recv, 64, NULL, &e) : zero_comm_send(c, data, 64, NULL, &e);
    }
    if (status == ZERO_ERR_MISMATCH) {
        EXPECT(c->other.rank == !odd && e.rank == (odd ? a : b));
        EXPECT(c->note == NULL || (c->other.note.key == 2u - odd && c->other.note.words[0] == 6u - odd));
        zero_comm_fail(c, &e);
    } else
        EXPECT(status == ZERO_ERR_PEER);
    snprintf(names, sizeof names, "`rank %d` `rank %d`", a, b);
    if (e.reason != ZERO_REASON_CALLS_DIFFER || !has_names(e.text, names) || !has_names(e.text, wanted)) {
        fprintf(stderr, "'%s' does not name %s and %s\n", e.text, names, wanted);
        return 1;
    }
    for (size_t i = kind == 7 ? 64 : 0; i < sizeof recv; i++) /* the gather may have copied its own slice */
        EXPECT(recv[i] == 0);
    EXPECT(zero_comm_send(c, data, 1, NULL, &e) != ZERO_OK && zero_comm_recv(c, data, 1, NULL, &e) != ZERO_OK);
    return 0;
}
