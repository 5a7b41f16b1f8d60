/* A trainer outside the tree, built against what `make install` installed: the public header, the library and its pkg-config file. It fits two
 * vectors to targets on one rank, and fails when training does not lower the loss as it should. */
#include <zero/zero.h>

#include <stdio.h>
#include <string.h>

#define UNITS 2
#define COUNT 100

static const char *const names[UNITS] = {"first", "second"};

/* Loss of a unit, the sum of (w - target)^2 / 2, and its gradient, added to dw. */
static double fit(const float *w, float *dw, int unit)
{
    double loss = 0;
    for (int i = 0; i < COUNT; i++) {
        float difference = w[i] - (float)(unit + 1);
        loss += 0.5 * difference * difference;
        dw[i] += difference;
    }
    return loss;
}

int main(void)
{
    zero_error_t error = {0};
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_engine_t *engine = NULL;
    zero_unit_t units[UNITS];
    zero_param_t params[UNITS];
    zero_pass_t pass;
    double first = 0, last = 0;
    int status = 1;

    if (strcmp(zero_version(), ZERO_VERSION) != 0) {
        snprintf(error.text, sizeof error.text, "the header is version %s, the library %s", ZERO_VERSION, zero_version());
        goto fail;
    }
    zero_config_t config;
    zero_config_init(&config);
    config.adamw.weight_decay = 0;
    if (zero_comm_self(&comm, &error) != ZERO_OK || zero_device_cpu(&device, NULL, &error) != ZERO_OK)
        goto fail;
    config.comm = comm;
    config.device = device;
    if (zero_config_stage(&config, 3) != ZERO_OK || zero_create(&engine, &config, &error) != ZERO_OK)
        goto fail;

    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    desc.ndim = 1;
    desc.shape[0] = COUNT;
    desc.trainable = true;
    if (zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass) != ZERO_OK)
        goto fail;
    for (int u = 0; u < UNITS; u++) {
        desc.name = names[u];
        if (zero_unit_add(engine, names[u], &units[u]) != ZERO_OK || zero_param_add(engine, units[u], &desc, &params[u]) != ZERO_OK ||
            zero_use_add(engine, pass, units[u], ZERO_READ | ZERO_GRAD) != ZERO_OK)
            goto fail;
    }
    if (zero_commit(engine) != ZERO_OK)
        goto fail;

    for (int step = 0; step < 100; step++) {
        last = 0;
        if (zero_micro_begin(engine, pass, ZERO_LAST) != ZERO_OK)
            goto fail;
        for (int u = 0; u < UNITS; u++) {
            if (zero_acquire(engine, units[u]) != ZERO_OK)
                goto fail;
            last += fit(zero_param_data(engine, params[u]), zero_param_grad(engine, params[u]), u);
            if (zero_release(engine, units[u]) != ZERO_OK)
                goto fail;
        }
        if (zero_micro_end(engine) != ZERO_OK || zero_step(engine, 0.05) != ZERO_OK)
            goto fail;
        if (step == 0)
            first = last;
    }
    /* At the start every w is 0: COUNT * (1 + 4) / 2. Adam then walks at most 0.05 a step, and 2 / 0.05 = 40 steps are enough to arrive. */
    if (first == 250.0 && last < 0.01 * first)
        status = 0;
    else
        snprintf(error.text, sizeof error.text, "the loss went from %g, wanted 250, to %g, wanted less than 2.5", first, last);

fail:
    if (status != 0)
        fprintf(stderr, "%s\n", error.text[0] != '\0' || engine == NULL ? error.text : zero_last_error(engine));
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return status;
}
