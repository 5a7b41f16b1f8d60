/* SPDX-License-Identifier: Apache-2.0 */
/* cudnn.c - see cudnn.h and cudnn_graph.h. */
#if defined(HAVE_CUDNN)

#include "kernels/nn/cuda/cudnn_graph.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define LIBRARY "libcudnn.so." TEXT(CUDNN_MAJOR)
#define OLDEST 90800 /* the first that makes plans from the properties of a GPU */

struct zero_cudnn {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t properties;
    size_t (*version)(void);
    cudnnStatus_t (*create)(cudnnHandle_t *handle);
    cudnnStatus_t (*destroy)(cudnnHandle_t handle);
    cudnnStatus_t (*set_stream)(cudnnHandle_t handle, cudaStream_t stream);
    const char *(*status_name)(cudnnStatus_t status);
    void (*last_error)(char *text, size_t size);
    cudnnStatus_t (*make)(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *descriptor);
    cudnnStatus_t (*drop)(cudnnBackendDescriptor_t descriptor);
    cudnnStatus_t (*finalize)(cudnnBackendDescriptor_t descriptor);
    cudnnStatus_t (*set)(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t type, int64_t count, const void *values);
    cudnnStatus_t (*get)(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t type, int64_t most, int64_t *count, void *values);
    cudnnStatus_t (*execute)(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack);
};

/* ---- the library ------------------------------------------------------------------------------------------------ */

/* "cudnnBackendFinalize gives CUDNN_STATUS_NOT_SUPPORTED: <cuDNN's message, in one line>". */
static zero_status_t failed(const zero_cudnn_t *c, const char *call, cudnnStatus_t status, zero_error_t *error)
{
    char words[256] = "";
    c->last_error(words, sizeof words);
    words[sizeof words - 1] = '\0';
    for (char *p = words; *p != '\0'; p++)
        if (*p == '\n')
            *p = ' ';
    return zero_fail(
        error, CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED ? ZERO_ERR_UNSUPPORTED : ZERO_ERR_SYSTEM,
        "%s gives %s%s%s", call, c->status_name(status), words[0] == '\0' ? "" : ": ", words);
}

static const char *load(zero_cudnn_t *c)
{
    const struct {
        const char *name;
        void **function;
    } all[] = {
        {"cudnnGetVersion", (void **)&c->version},
        {"cudnnCreate", (void **)&c->create},
        {"cudnnDestroy", (void **)&c->destroy},
        {"cudnnSetStream", (void **)&c->set_stream},
        {"cudnnGetErrorString", (void **)&c->status_name},
        {"cudnnGetLastErrorString", (void **)&c->last_error},
        {"cudnnBackendCreateDescriptor", (void **)&c->make},
        {"cudnnBackendDestroyDescriptor", (void **)&c->drop},
        {"cudnnBackendFinalize", (void **)&c->finalize},
        {"cudnnBackendSetAttribute", (void **)&c->set},
        {"cudnnBackendGetAttribute", (void **)&c->get},
        {"cudnnBackendExecute", (void **)&c->execute},
    };
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return LIBRARY;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        *all[i].function = dlsym(library, all[i].name);
        if (*all[i].function == NULL)
            return all[i].name;
    }
    return NULL;
}

zero_status_t zero_cudnn_open(zero_cudnn_t **out, const char *properties, void *stream, zero_error_t *error)
{
    const char *call = "cudnnCreate";
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    zero_status_t result;
    *out = NULL;
    zero_cudnn_t *c = calloc(1, sizeof *c);
    if (c == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of cuDNN's state", sizeof *c);
    const char *missing = load(c);
    if (missing != NULL) {
        result = zero_fail(error, ZERO_ERR_UNSUPPORTED, "cuDNN is not installed: %s was not found", missing);
        goto fail;
    }
    if (c->version() < OLDEST) {
        result = zero_fail(error, ZERO_ERR_UNSUPPORTED, "cuDNN %zu is too old: %d or newer is required", c->version(),
                           OLDEST);
        goto fail;
    }
    if (properties == NULL) {
        status = c->create(&c->handle);
        if (status != CUDNN_STATUS_SUCCESS) {
            c->handle = NULL;
            goto failed;
        }
        call = "cudnnSetStream";
        status = c->set_stream(c->handle, stream);
        if (status != CUDNN_STATUS_SUCCESS)
            goto failed;
    }
    call = "a descriptor of the GPU's properties";
    status = c->make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &c->properties);
    if (status != CUDNN_STATUS_SUCCESS) {
        c->properties = NULL;
        goto failed;
    }
    if (properties == NULL)
        status = c->set(c->properties, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &c->handle);
    else
        status = c->set(c->properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                        (int64_t)strlen(properties), properties);
    if (status == CUDNN_STATUS_SUCCESS)
        status = c->finalize(c->properties);
    if (status != CUDNN_STATUS_SUCCESS)
        goto failed;
    *out = c;
    return ZERO_OK;
failed:
    result = failed(c, call, status, error);
fail:
    zero_cudnn_close(c);
    return result;
}

void zero_cudnn_close(zero_cudnn_t *c)
{
    if (c == NULL)
        return;
    if (c->properties != NULL)
        c->drop(c->properties);
    if (c->handle != NULL)
        c->destroy(c->handle);
    free(c);
}

zero_status_t zero_cudnn_set_stream(zero_cudnn_t *c, void *stream, zero_error_t *error)
{
    cudnnStatus_t status = c->set_stream(c->handle, stream);
    return status == CUDNN_STATUS_SUCCESS ? ZERO_OK : failed(c, "cudnnSetStream", status, error);
}

uint64_t zero_cudnn_version(const zero_cudnn_t *c)
{
    return c->version();
}

/* ---- graphs ----------------------------------------------------------------------------------------------------- */

/* Creates a descriptor that the graph frees. Returns NULL after a failure. */
static cudnnBackendDescriptor_t make(zero_graph_t *g, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;
    if (g->status == CUDNN_STATUS_SUCCESS && g->count == (int)(sizeof g->all / sizeof g->all[0]))
        g->status = CUDNN_STATUS_NOT_SUPPORTED;
    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    g->call = "cudnnBackendCreateDescriptor";
    g->status = g->cudnn->make(type, &d);
    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    return g->all[g->count++] = d;
}

static void set(zero_graph_t *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (g->status != CUDNN_STATUS_SUCCESS)
        return;
    g->call = "cudnnBackendSetAttribute";
    g->status = g->cudnn->set(d, name, type, count, values);
}

static void set_descriptor(zero_graph_t *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value)
{
    if (value != NULL)
        set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(zero_graph_t *g, cudnnBackendDescriptor_t d)
{
    if (g->status != CUDNN_STATUS_SUCCESS)
        return;
    g->call = "cudnnBackendFinalize";
    g->status = g->cudnn->finalize(d);
}

static void operation(zero_graph_t *g, cudnnBackendDescriptor_t d)
{
    finalize(g, d);
    if (g->status == CUDNN_STATUS_SUCCESS &&
        g->operation_count == (int)(sizeof g->operations / sizeof g->operations[0]))
        g->status = CUDNN_STATUS_NOT_SUPPORTED;
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->operations[g->operation_count++] = d;
}

cudnnBackendDescriptor_t zero_graph_tensor(zero_graph_t *g, int64_t number, cudnnDataType_t type,
                                           zero_graph_dims_t dims, bool by_value)
{
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t alignment = type == CUDNN_DATA_FLOAT ? 4 : 16; /* statistics of a piece start at any address */
    const bool inside = number == 0;
    if (inside)
        number = 1000 + ++g->virtuals;
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &number);
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims.size);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, dims.stride);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inside);
    set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    finalize(g, d);
    return d;
}

void zero_graph_pointwise(zero_graph_t *g, cudnnPointwiseMode_t mode, cudnnDataType_t precision,
                          cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t t,
                          cudnnBackendDescriptor_t y, int64_t axis)
{
    cudnnBackendDescriptor_t what = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    if (axis >= 0)
        set(g, what, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finalize(g, what);
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    operation(g, d);
}

void zero_graph_reduce(zero_graph_t *g, cudnnReduceTensorOp_t how, cudnnBackendDescriptor_t x,
                       cudnnBackendDescriptor_t y)
{
    const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t what = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, what, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how);
    set(g, what, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finalize(g, what);
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, what);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    operation(g, d);
}

void zero_graph_matmul(zero_graph_t *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                       cudnnBackendDescriptor_t c)
{
    const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t what = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(g, what, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finalize(g, what);
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_DESC, what);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    operation(g, d);
}

void zero_graph_reshape(zero_graph_t *g, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    operation(g, d);
}

/* ---- plans ------------------------------------------------------------------------------------------------------ */

enum { PROPOSALS = 16, NOTES = 16 };

/* Whether cuDNN notes that the engine's bits may differ from run to run. */
static bool varies(zero_graph_t *g, cudnnBackendDescriptor_t config)
{
    cudnnBackendNumericalNote_t notes[NOTES];
    int64_t count = 0;
    cudnnBackendDescriptor_t engine = make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    if (g->status != CUDNN_STATUS_SUCCESS ||
        g->cudnn->get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine) !=
            CUDNN_STATUS_SUCCESS ||
        g->cudnn->get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES, &count, notes) !=
            CUDNN_STATUS_SUCCESS)
        return true;
    for (int64_t i = 0; i < count && i < NOTES; i++)
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
            return true;
    return false;
}

/* Creates a plan from one proposal. */
static cudnnStatus_t try_plan(zero_cudnn_t *c, cudnnBackendDescriptor_t config, cudnnBackendDescriptor_t *plan,
                              int64_t *workspace)
{
    int64_t count = 0;
    cudnnBackendDescriptor_t p = NULL;
    cudnnStatus_t status = c->make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    status = c->set(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (status == CUDNN_STATUS_SUCCESS)
        status = c->set(p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->properties);
    if (status == CUDNN_STATUS_SUCCESS)
        status = c->finalize(p);
    if (status == CUDNN_STATUS_SUCCESS)
        status = c->get(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count, workspace);
    if (status != CUDNN_STATUS_SUCCESS) {
        c->drop(p);
        return status;
    }
    *plan = p;
    return CUDNN_STATUS_SUCCESS;
}

zero_status_t zero_graph_plan(zero_graph_t *g, cudnnBackendDescriptor_t *plan, int64_t *workspace, zero_error_t *error)
{
    zero_cudnn_t *c = g->cudnn;
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t configs[PROPOSALS], graph = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    int64_t count = 0;
    *plan = NULL;
    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operation_count, g->operations);
    finalize(g, graph);
    cudnnBackendDescriptor_t heuristic = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set_descriptor(g, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, c->properties);
    finalize(g, heuristic);
    for (int i = 0; i < PROPOSALS; i++)
        configs[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->status == CUDNN_STATUS_SUCCESS) {
        g->call = "cuDNN's heuristic";
        g->status =
            c->get(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, PROPOSALS, &count, configs);
    }
    if (g->status == CUDNN_STATUS_SUCCESS) {
        g->call = "a plan";
        cudnnStatus_t status = CUDNN_STATUS_NOT_SUPPORTED;
        for (int64_t i = 0; i < count && i < PROPOSALS && status != CUDNN_STATUS_SUCCESS; i++)
            if (!varies(g, configs[i]))
                status = try_plan(c, configs[i], plan, workspace);
        g->status = status;
    }
    zero_status_t result = g->status == CUDNN_STATUS_SUCCESS ? ZERO_OK : failed(c, g->call, g->status, error);
    while (g->count > 0)
        c->drop(g->all[--g->count]);
    return result;
}

void zero_graph_plan_destroy(zero_cudnn_t *c, cudnnBackendDescriptor_t plan)
{
    if (plan != NULL)
        c->drop(plan);
}

zero_status_t zero_graph_run(zero_cudnn_t *c, cudnnBackendDescriptor_t plan, int count, const int64_t *numbers,
                             void *const *addresses, void *workspace, zero_error_t *error)
{
    const char *call = "cudnnBackendCreateDescriptor";
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t status = c->make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status != CUDNN_STATUS_SUCCESS)
        return failed(c, call, status, error);
    call = "cudnnBackendSetAttribute";
    status = c->set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, numbers);
    if (status == CUDNN_STATUS_SUCCESS)
        status = c->set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, addresses);
    if (status == CUDNN_STATUS_SUCCESS)
        status = c->set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (status == CUDNN_STATUS_SUCCESS) {
        call = "cudnnBackendFinalize";
        status = c->finalize(pack);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        call = "cudnnBackendExecute";
        status = c->execute(c->handle, plan, pack);
    }
    zero_status_t result = status == CUDNN_STATUS_SUCCESS ? ZERO_OK : failed(c, call, status, error);
    c->drop(pack);
    return result;
}

#else

#include "kernels/nn/cuda/cudnn.h"

zero_status_t zero_cudnn_open(zero_cudnn_t **cudnn, const char *properties, void *stream, zero_error_t *error)
{
    (void)properties;
    (void)stream;
    *cudnn = NULL;
    return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                     "this build has no cuDNN: install its headers and configure --with-cudnn");
}

void zero_cudnn_close(zero_cudnn_t *cudnn)
{
    (void)cudnn;
}

zero_status_t zero_cudnn_set_stream(zero_cudnn_t *cudnn, void *stream, zero_error_t *error)
{
    (void)cudnn;
    (void)stream;
    (void)error;
    return ZERO_OK;
}

uint64_t zero_cudnn_version(const zero_cudnn_t *cudnn)
{
    (void)cudnn;
    return 0;
}

#endif
