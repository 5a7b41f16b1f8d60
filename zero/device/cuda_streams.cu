/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_streams.cu - streams and events of the CUDA device.
 *
 * Tasks run at once on the calling thread and launch work; CUDA keeps the order. The host waits by polling, so that
 * every wait has a time limit: CUDA's own waits have none. A wait of a stream for an event has none of its own; the
 * host wait for that stream limits it. cuda_host.cu has the streams whose work is on the host; this file connects the
 * two.
 */
#include "zero/device/cuda_device.h"

#include <stdlib.h>
#include <time.h>

/* The state of a stream, mainly its failure. Outlives the stream while events and waiting streams refer to it. */
typedef struct state {
    int refs;
    bool failed; /* error is set */
    zero_stream_id_t id;
    zero_cuda_host_t *host;                 /* of a host stream, while it exists */
    struct state *after[ZERO_STREAM_COUNT]; /* the host streams that this one has waited for, directly or indirectly; if
                                               they fail, so does this one */
    zero_error_t error;
} state_t;

struct zero_stream {
    zero_cuda_t *device;
    cudaStream_t native; /* NULL for a host stream */
    bool borrowed;       /* owned by the caller */
    bool late;           /* the last wait for it exceeded its time limit */
    double lasted;       /* duration of the last wait for it, in seconds */
    state_t *state;
};

struct zero_event {
    zero_cuda_t *device;
    cudaEvent_t native;
    zero_event_t *mark; /* an event of the CPU device */
    state_t *state;     /* of the stream of the last record; NULL: never recorded */
    uint64_t position;  /* not 0: the record is mark, on a host stream; 0: it is native */
    double lasted;      /* duration of the host's last wait for it, in seconds */
};

/* How long destroy waits for a stream's work, in seconds; the second one applies if the stream has failed or a wait for
 * it has exceeded its time limit. */
static const double DRAIN_S = 600, DRAIN_LATE_S = 3;

static bool is_host(zero_stream_id_t id)
{
    return id == ZERO_STREAM_HOST || id == ZERO_STREAM_IO || id == ZERO_STREAM_SAVE;
}

static void state_drop(state_t *s)
{
    if (s && --s->refs == 0)
        free(s);
}

static void state_replace(state_t **place, state_t *s)
{
    if (*place == s)
        return;
    state_drop(*place);
    *place = s;
    s->refs++;
}

/* The status of this stream only. */
static zero_status_t own_status(const state_t *s, zero_error_t *error)
{
    if (s->host)
        return zero_cuda_host_status(s->host, error);
    return s->failed ? zero_pass(error, s->error.status, &s->error) : ZERO_OK;
}

static zero_status_t state_status(const state_t *s, zero_error_t *error)
{
    zero_status_t status = own_status(s, error);
    for (int i = 0; status == ZERO_OK && i < ZERO_STREAM_COUNT; i++)
        if (s->after[i])
            status = own_status(s->after[i], error);
    return status;
}

/* s waits for another stream: it then depends on what that stream depends on. */
static void state_follow(state_t *s, state_t *waited_for)
{
    for (int i = 0; i < ZERO_STREAM_COUNT; i++)
        if (waited_for->after[i] && waited_for->after[i] != s)
            state_replace(&s->after[i], waited_for->after[i]);
    if (is_host(waited_for->id))
        state_replace(&s->after[waited_for->id], waited_for);
}

/* Keeps the first failure. */
static zero_status_t state_fail(state_t *s, zero_status_t status, const zero_error_t *error)
{
    if (!s->failed) {
        s->failed = true;
        s->error = *error;
        s->error.status = status;
    }
    return status;
}

/* Makes the stream fail after a failed CUDA call. */
static zero_status_t stream_failed(zero_stream_t *s, cudaError_t e, const char *call, zero_error_t *error)
{
    zero_error_t local;
    zero_status_t status =
        zero_cuda_failed(s->device, e, &local, "stream '%s', %s", zero_stream_name(s->state->id), call);
    state_fail(s->state, status, &local);
    return zero_pass(error, status, &local);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

/* cudaErrorNotReady is not an error, but the runtime may keep it as the last error. Clears it; a real error stays. */
static cudaError_t clear_not_ready(cudaError_t e)
{
    if (e == cudaErrorNotReady && cudaPeekAtLastError() == cudaErrorNotReady)
        cudaGetLastError();
    return e;
}

cudaError_t zero_cuda_query_stream(void *stream)
{
    return clear_not_ready(cudaStreamQuery((cudaStream_t)stream));
}

cudaError_t zero_cuda_query_event(void *event)
{
    return clear_not_ready(cudaEventQuery((cudaEvent_t)event));
}

cudaError_t zero_cuda_poll(cudaError_t (*query)(void *handle), void *handle, double timeout_s, double *lasted)
{
    const double begin = zero_now();
    double expected = 0;
    if (lasted)
        __atomic_load(lasted, &expected, __ATOMIC_RELAXED);
    for (;;) {
        cudaError_t e = query(handle);
        double waited = zero_now() - begin;
        if (lasted && e == cudaSuccess)
            __atomic_store(lasted, &waited, __ATOMIC_RELAXED);
        if (e != cudaErrorNotReady || waited >= timeout_s)
            return e;
        double seconds = zero_host_pause(waited, expected);
        if (seconds > 0) {
            struct timespec pause = {0, (long)(seconds * 1e9)};
            nanosleep(&pause, NULL);
        }
    }
}

zero_status_t zero_cuda_sync(zero_stream_t *s, double timeout_s, zero_error_t *error)
{
    zero_status_t status = state_status(s->state, error);
    if (status)
        return status;
    if (s->state->host) {
        status = zero_cpu_sync(zero_cuda_host_worker(s->state->host), timeout_s, error);
        s->late = status == ZERO_ERR_TIMEOUT;
        return status;
    }
    status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_poll(zero_cuda_query_stream, s->native, timeout_s, &s->lasted);
    s->late = e == cudaErrorNotReady;
    if (s->late)
        return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: stream '%s' was not done within %g s", s->device->name,
                         zero_stream_name(s->state->id), timeout_s);
    return e == cudaSuccess ? state_status(s->state, error) : stream_failed(s, e, "cudaStreamQuery", error);
}

zero_status_t zero_cuda_finish(zero_device_t *device, void *native, double timeout_s, zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_poll(zero_cuda_query_stream, native, timeout_s, &d->lasted);
    if (e == cudaErrorNotReady)
        return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: the work queued on a stream was not done within %g s", d->name,
                         timeout_s);
    return e == cudaSuccess ? ZERO_OK : zero_cuda_failed(d, e, error, "cudaStreamQuery");
}

zero_status_t zero_cuda_host_wait(zero_event_t *event, double timeout_s, zero_error_t *error)
{
    if (!event->state)
        return ZERO_OK;
    zero_status_t status = state_status(event->state, error);
    if (status)
        return status;
    if (event->position)
        return zero_cpu_host_wait(event->mark, timeout_s, error);
    status = zero_cuda_enter(event->device, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_poll(zero_cuda_query_event, event->native, timeout_s, &event->lasted);
    if (e == cudaErrorNotReady)
        return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: stream '%s' did not reach an event within %g s",
                         event->device->name, zero_stream_name(event->state->id), timeout_s);
    if (e == cudaSuccess)
        return ZERO_OK;
    zero_error_t local;
    status =
        zero_cuda_failed(event->device, e, &local, "stream '%s', cudaEventQuery", zero_stream_name(event->state->id));
    state_fail(event->state, status, &local);
    return zero_pass(error, status, &local);
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

zero_status_t zero_cuda_stream_create(zero_device_t *device, zero_stream_id_t id, zero_stream_t **stream,
                                      zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    *stream = NULL;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status)
        return status;
    zero_stream_t *s = (zero_stream_t *)calloc(1, sizeof *s);
    if (!s || !(s->state = (state_t *)calloc(1, sizeof *s->state))) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a stream's handle (%zu bytes)",
                           sizeof *s + sizeof *s->state);
        free(s);
        return status;
    }
    s->device = d;
    s->state->refs = 1;
    s->state->id = id;
    s->borrowed = id == ZERO_STREAM_COMPUTE && d->base.options.stream;
    if (is_host(id))
        status = zero_cuda_host_create(d, id, &s->state->host, error);
    else if (s->borrowed)
        s->native = (cudaStream_t)d->base.options.stream;
    else {
        /* Non-blocking: work on the legacy default stream does not order it. */
        cudaError_t e = cudaStreamCreateWithFlags(&s->native, cudaStreamNonBlocking);
        if (e != cudaSuccess)
            status = zero_cuda_failed(d, e, error, "stream '%s', cudaStreamCreateWithFlags", zero_stream_name(id));
    }
    if (status) {
        free(s->state);
        free(s);
        return status;
    }
    *stream = s;
    return ZERO_OK;
}

void zero_cuda_stream_destroy(zero_stream_t *s)
{
    if (!s)
        return;
    zero_error_t failure;
    zero_cuda_host_t *host = s->state->host;
    zero_status_t entered = zero_cuda_enter(s->device, NULL);
    double drain_s = s->late || state_status(s->state, NULL) ? DRAIN_LATE_S : DRAIN_S;
    if (host)
        zero_cpu_sync(zero_cuda_host_worker(host), drain_s, NULL);
    else if (entered == ZERO_OK) {
        if (zero_cuda_poll(zero_cuda_query_stream, s->native, drain_s, NULL) == cudaErrorNotReady)
            zero_cuda_give_up(s->device);
        else if (!s->borrowed)
            cudaStreamDestroy(s->native);
    }
    /* Events still need this stream's status. References to other streams are dropped: they may form cycles. */
    zero_status_t status = state_status(s->state, &failure);
    s->state->host = NULL;
    if (status)
        state_fail(s->state, status, &failure);
    for (int i = 0; i < ZERO_STREAM_COUNT; i++) {
        state_drop(s->state->after[i]);
        s->state->after[i] = NULL;
    }
    zero_cuda_host_destroy(host, drain_s);
    state_drop(s->state);
    free(s);
}

zero_status_t zero_cuda_enqueue(zero_stream_t *s, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error)
{
    zero_error_t local; /* about a thousand bytes; only status is set unless something fails */
    zero_status_t status = state_status(s->state, error);
    if (status)
        return status;
    if (s->state->host)
        return zero_cpu_enqueue(zero_cuda_host_worker(s->state->host), fn, ctx, arg, error);
    status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    local.status = ZERO_OK;
    local.text[0] = '\0';
    status = fn(ctx, arg, s->native, &local);
    if (status != ZERO_OK) {
        state_fail(s->state, status, &local);
        return zero_pass(error, status, &local);
    }
    /* A failed kernel launch is reported only here. */
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? ZERO_OK : stream_failed(s, e, "the launch of its work", error);
}

void *zero_cuda_native(zero_stream_t *s)
{
    return s->native;
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

zero_status_t zero_cuda_event_create(zero_device_t *device, zero_event_t **event, zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    *event = NULL;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status)
        return status;
    zero_event_t *v = (zero_event_t *)calloc(1, sizeof *v);
    if (!v)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for an event (%zu bytes)", sizeof *v);
    v->device = d;
    cudaError_t e = cudaEventCreateWithFlags(&v->native, cudaEventDisableTiming);
    if (e != cudaSuccess) {
        v->native = NULL;
        status = zero_cuda_failed(d, e, error, "cudaEventCreateWithFlags");
    } else
        status = zero_cpu_event_create(&d->workers, &v->mark, error);
    if (status) {
        zero_cuda_event_destroy(v);
        return status;
    }
    *event = v;
    return ZERO_OK;
}

void zero_cuda_event_destroy(zero_event_t *event)
{
    if (!event)
        return;
    if (event->native && zero_cuda_enter(event->device, NULL) == ZERO_OK)
        cudaEventDestroy(event->native);
    zero_cpu_event_destroy(event->mark);
    state_drop(event->state);
    free(event);
}

zero_status_t zero_cuda_record(zero_event_t *event, zero_stream_t *s, zero_error_t *error)
{
    state_replace(&event->state, s->state);
    event->position = 0;
    zero_status_t status = state_status(s->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    if (s->state->host)
        return zero_cuda_host_record(s->state->host, event->mark, &event->position, error);
    cudaError_t e = cudaEventRecord(event->native, s->native);
    return e == cudaSuccess ? ZERO_OK : stream_failed(s, e, "cudaEventRecord", error);
}

zero_status_t zero_cuda_wait(zero_stream_t *s, zero_event_t *event, double timeout_s, zero_error_t *error)
{
    zero_status_t status = state_status(s->state, error);
    if (status || !event->state || event->state == s->state)
        return status;
    status = state_status(event->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(s->device, error);
    if (status)
        return status;

    state_follow(s->state, event->state);
    if (event->position && s->state->host)
        return zero_cpu_wait(zero_cuda_host_worker(s->state->host), event->mark, timeout_s, error);
    if (s->state->host)
        return zero_cuda_host_after(s->state->host, event->native, timeout_s, error);
    if (event->position) /* a destroyed stream has completed its work */
        return !event->state->host ? ZERO_OK
                                   : zero_cuda_host_before(event->state->host, event->position, event->mark, s->native,
                                                           timeout_s, error);
    cudaError_t e = cudaStreamWaitEvent(s->native, event->native, 0);
    return e == cudaSuccess ? ZERO_OK : stream_failed(s, e, "cudaStreamWaitEvent", error);
}
