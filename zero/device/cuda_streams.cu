/* cuda_streams.cu - streams and events of the CUDA device.
 *
 * Tasks run at once on the calling thread and launch; CUDA keeps the order. The host waits by polling, so that every wait has a bound: CUDA's own
 * waits have none. A wait of a stream for an event is bounded by whoever waits for that stream.
 */
#include "zero/device/cuda_device.h"

#include <stdlib.h>
#include <time.h>

/* A stream's failure, kept. Outlives the stream while events refer to it. */
typedef struct state {
    int refs;
    bool failed;
    zero_stream_id_t id;
    zero_error_t error;
} state_t;

struct zero_stream {
    zero_cuda_t *device;
    cudaStream_t native;
    bool borrowed;            /* the caller's */
    bool late;                /* the last wait for it ran past its bound */
    state_t *state;
};

struct zero_event {
    zero_cuda_t *device;
    cudaEvent_t native;
    state_t *state;           /* of the stream that recorded it; NULL: never recorded */
};

/* Seconds for which destroy waits for a stream's work; and where the stream has failed, or a wait for it has run out of time already. */
static const double DRAIN_S = 600, DRAIN_LATE_S = 5;

static const char *stream_name(zero_stream_id_t id)
{
    static const char *const names[] = {"compute", "gather", "reduce", "update", "copy", "host", "io"};
    return (size_t)id < sizeof names / sizeof *names ? names[id] : "?";
}

static void state_drop(state_t *s)
{
    if (s && --s->refs == 0)
        free(s);
}

static zero_status_t state_status(const state_t *s, zero_error_t *error)
{
    return s->failed ? zero_fail(error, s->error.status, "%s", s->error.text) : ZERO_OK;
}

/* Keeps the failure, whose sentence is *error. */
static zero_status_t state_fail(state_t *s, zero_status_t status, const zero_error_t *error)
{
    if (!s->failed) {
        s->failed = true;
        s->error = *error;
        s->error.status = status;
    }
    return status;
}

/* A CUDA call on a stream failed: so has the stream. */
static zero_status_t stream_failed(zero_stream_t *s, cudaError_t e, const char *call, zero_error_t *error)
{
    zero_error_t local;
    zero_status_t status = zero_cuda_failed(s->device, e, &local, "stream '%s', %s", stream_name(s->state->id), call);
    state_fail(s->state, status, &local);
    return zero_fail(error, status, "%s", local.text);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

/* cudaErrorNotReady is no error, but the runtime may keep it as the last one; a real one stays for whoever looks. */
static cudaError_t not_kept(cudaError_t e)
{
    if (e == cudaErrorNotReady && cudaPeekAtLastError() == cudaErrorNotReady)
        cudaGetLastError();
    return e;
}

cudaError_t zero_cuda_query_stream(void *stream)
{
    return not_kept(cudaStreamQuery((cudaStream_t)stream));
}

static cudaError_t query_event(void *event)
{
    return not_kept(cudaEventQuery((cudaEvent_t)event));
}

cudaError_t zero_cuda_poll(cudaError_t (*query)(void *handle), void *handle, double timeout_s)
{
    const double begin = zero_host_now();
    for (;;) {
        cudaError_t e = query(handle);
        double waited = zero_host_now() - begin;
        if (e != cudaErrorNotReady || waited >= timeout_s)
            return e;
        /* At once for the first moments, then a tenth of what was waited so far, up to a millisecond. */
        long nanoseconds = waited < 20e-6 ? 0 : waited < 10e-3 ? (long)(waited * 1e8) : 1000000;
        if (nanoseconds) {
            struct timespec pause = {0, nanoseconds};
            nanosleep(&pause, NULL);
        }
    }
}

zero_status_t zero_cuda_sync(zero_stream_t *s, double timeout_s, zero_error_t *error)
{
    zero_status_t status = state_status(s->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_poll(zero_cuda_query_stream, s->native, timeout_s);
    s->late = e == cudaErrorNotReady;
    if (s->late)
        return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: stream '%s' was not done within %g s", s->device->name, stream_name(s->state->id), timeout_s);
    return e == cudaSuccess ? ZERO_OK : stream_failed(s, e, "cudaStreamQuery", error);
}

zero_status_t zero_cuda_finish(zero_device_t *device, void *native, double timeout_s, zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_poll(zero_cuda_query_stream, native, timeout_s);
    if (e == cudaErrorNotReady)
        return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: what was queued on a stream was not done within %g s", d->name, timeout_s);
    return e == cudaSuccess ? ZERO_OK : zero_cuda_failed(d, e, error, "cudaStreamQuery");
}

zero_status_t zero_cuda_host_wait(zero_event_t *event, double timeout_s, zero_error_t *error)
{
    if (!event->state)
        return ZERO_OK;
    zero_status_t status = state_status(event->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(event->device, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_poll(query_event, event->native, timeout_s);
    if (e == cudaErrorNotReady)
        return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: stream '%s' did not reach an event within %g s", event->device->name,
                         stream_name(event->state->id), timeout_s);
    if (e == cudaSuccess)
        return ZERO_OK;
    zero_error_t local;
    status = zero_cuda_failed(event->device, e, &local, "stream '%s', cudaEventQuery", stream_name(event->state->id));
    state_fail(event->state, status, &local);
    return zero_fail(error, status, "%s", local.text);
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

zero_status_t zero_cuda_stream_create(zero_device_t *device, zero_stream_id_t id, zero_stream_t **stream, zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    *stream = NULL;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status)
        return status;
    zero_stream_t *s = (zero_stream_t *)calloc(1, sizeof *s);
    if (!s || !(s->state = (state_t *)calloc(1, sizeof *s->state))) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a stream's handle (%zu bytes)", sizeof *s + sizeof *s->state);
        free(s);
        return status;
    }
    s->device = d;
    s->state->refs = 1;
    s->state->id = id;
    s->borrowed = id == ZERO_STREAM_COMPUTE && d->base.options.stream;
    if (s->borrowed)
        s->native = (cudaStream_t)d->base.options.stream;
    else {
        /* Non-blocking: nothing that a caller does on the legacy default stream orders it. */
        cudaError_t e = cudaStreamCreateWithFlags(&s->native, cudaStreamNonBlocking);
        if (e != cudaSuccess) {
            status = zero_cuda_failed(d, e, error, "stream '%s', cudaStreamCreateWithFlags", stream_name(id));
            free(s->state);
            free(s);
            return status;
        }
    }
    *stream = s;
    return ZERO_OK;
}

void zero_cuda_stream_destroy(zero_stream_t *s)
{
    if (!s)
        return;
    if (zero_cuda_enter(s->device, NULL) == ZERO_OK) {
        double bound = s->late || s->state->failed ? DRAIN_LATE_S : DRAIN_S;
        if (zero_cuda_poll(zero_cuda_query_stream, s->native, bound) == cudaErrorNotReady)
            __atomic_store_n(&s->device->stuck, true, __ATOMIC_RELAXED);
        else if (!s->borrowed)
            cudaStreamDestroy(s->native);
    }
    state_drop(s->state);
    free(s);
}

zero_status_t zero_cuda_enqueue(zero_stream_t *s, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error)
{
    zero_error_t local; /* a thousand bytes, of which only the first are set unless something fails */
    zero_status_t status = state_status(s->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    local.status = ZERO_OK;
    local.text[0] = '\0';
    status = fn(ctx, arg, s->native, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    state_fail(s->state, status, &local);
    return zero_fail(error, status, "%s", local.text);
}

void *zero_cuda_native(zero_stream_t *s)
{
    return s->native;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

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
    cudaError_t e = cudaEventCreateWithFlags(&v->native, cudaEventDisableTiming);
    if (e != cudaSuccess) {
        free(v);
        return zero_cuda_failed(d, e, error, "cudaEventCreateWithFlags");
    }
    v->device = d;
    *event = v;
    return ZERO_OK;
}

void zero_cuda_event_destroy(zero_event_t *event)
{
    if (!event)
        return;
    if (zero_cuda_enter(event->device, NULL) == ZERO_OK)
        cudaEventDestroy(event->native);
    state_drop(event->state);
    free(event);
}

zero_status_t zero_cuda_record(zero_event_t *event, zero_stream_t *s, zero_error_t *error)
{
    if (event->state != s->state) {
        state_drop(event->state);
        event->state = s->state;
        s->state->refs++;
    }
    zero_status_t status = state_status(s->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    cudaError_t e = cudaEventRecord(event->native, s->native);
    return e == cudaSuccess ? ZERO_OK : stream_failed(s, e, "cudaEventRecord", error);
}

zero_status_t zero_cuda_wait(zero_stream_t *s, zero_event_t *event, double timeout_s, zero_error_t *error)
{
    (void)timeout_s;
    zero_status_t status = state_status(s->state, error);
    if (status || !event->state || event->state == s->state)
        return status;
    status = state_status(event->state, error);
    if (status == ZERO_OK)
        status = zero_cuda_enter(s->device, error);
    if (status)
        return status;
    cudaError_t e = cudaStreamWaitEvent(s->native, event->native, 0);
    return e == cudaSuccess ? ZERO_OK : stream_failed(s, e, "cudaStreamWaitEvent", error);
}
