/* SPDX-License-Identifier: Apache-2.0 */
/* classifier.cc - libzero from C++17 with zero.hpp: handles that free themselves, exceptions instead of statuses, and
 * scopes that hold units. A network with a hidden layer learns which of three rings around the origin contains a point.
 *
 *   c++ -std=c++17 -O2 classifier.cc -o classifier $(pkg-config --cflags --libs zero)
 *   mpiexec -n 2 ./classifier */
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <vector>
#include <zero/zero.hpp>

/* ---- the trainer ------------------------------------------------------------------------------------------------ */

namespace
{

constexpr int hidden = 32, classes = 3, batch = 48, steps = 200;

float noise(std::uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return static_cast<float>(static_cast<std::int32_t>(i >> 32)) / 2147483648.0f;
}

/* A unit of one parameter: (out, in + 1). The last column is the bias. */
struct layer {
    int in, out;
    zero_unit_t unit = -1;
    zero_param_t weight = -1;

    void declare(const zero::engine &e, const char *name)
    {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 2;
        desc.shape[0] = out;
        desc.shape[1] = in + 1;
        desc.trainable = true;
        e(zero_unit_add, name, &unit);
        e(zero_param_add, unit, &desc, &weight);
    }

    void fill(const zero::engine &e) const
    {
        std::vector<float> values(static_cast<std::size_t>(out * (in + 1)));
        for (std::size_t i = 0; i < values.size(); i++)
            values[i] =
                noise((static_cast<std::uint64_t>(weight + 1) << 32) + i) * std::sqrt(3.0f / static_cast<float>(in));
        e(zero_param_set, weight, ZERO_STATE_PARAM, ZERO_FP32, values.data());
    }

    void forward(const float *w, const float *x, float *y) const
    {
        for (int o = 0; o < out; o++, w += in + 1) {
            y[o] = w[in];
            for (int i = 0; i < in; i++)
                y[o] += w[i] * x[i];
        }
    }

    /* If dx is NULL, w is not read. */
    void backward(const float *w, float *dw, const float *x, const float *dy, float *dx) const
    {
        for (int o = 0; o < out; o++, dw += in + 1) {
            dw[in] += dy[o];
            for (int i = 0; i < in; i++) {
                dw[i] += dy[o] * x[i];
                if (dx)
                    dx[i] += dy[o] * w[o * (in + 1) + i];
            }
        }
    }
};

struct sample {
    float x[2], h[hidden], p[classes], dh[hidden];
    int ring;
};

/* number is 0, 1 or 2: the ring, from the origin outwards. The rings have equal areas. */
void draw(sample &s, int number)
{
    s.x[0] = noise(static_cast<std::uint64_t>(2 * number));
    s.x[1] = noise(static_cast<std::uint64_t>(2 * number + 1));
    float square = s.x[0] * s.x[0] + s.x[1] * s.x[1];
    s.ring = square < 0.4f ? 0 : square < 0.8f ? 1 : 2;
}

/* Returns the fraction of the last steps' samples that are classified correctly. */
double train(zero_comm_t *comm)
{
    const int rank = zero_comm_rank(comm), world = zero_comm_size(comm);
    auto device = zero::make(zero_device_cpu, nullptr);
    zero_config_t config;
    zero_config_init(&config);
    config.comm = comm;
    config.device = device.get();
    config.persist_bytes = 0;
    config.grad_scale = 1.0 / batch;
    zero::engine e(config);
    layer first{2, hidden}, second{hidden, classes};
    zero_pass_t pass;
    first.declare(e, "first");
    second.declare(e, "second");
    e(zero_pass_add, "train", ZERO_PASS_TRAIN, &pass);
    e(zero_use_add, pass, first.unit, ZERO_READ);
    e(zero_use_add, pass, second.unit,
      ZERO_READ | ZERO_GRAD);                     /* one use for the last unit's forward and backward pass */
    e(zero_use_add, pass, first.unit, ZERO_GRAD); /* its values are not read again, so it is not gathered again */
    e(zero_commit);
    first.fill(e);
    second.fill(e);

    double right = 0;
    std::vector<sample> samples;
    for (int step = 0; step < steps; step++) {
        double sums[2] = {0, 0}; /* loss, correct samples */
        samples.clear();
        for (int s = rank; s < batch; s += world)
            draw(samples.emplace_back(), step * batch + s);
        e(zero_micro_begin, pass, ZERO_LAST);
        {
            zero::held hold(e, first.unit);
            for (sample &s : samples) {
                first.forward(e.data(first.weight), s.x, s.h);
                for (float &h : s.h)
                    h = std::tanh(h);
            }
        }
        {
            zero::held hold(e, second.unit);
            for (sample &s : samples) {
                float total = 0;
                second.forward(e.data(second.weight), s.h, s.p);
                for (float &p : s.p)
                    total += p = std::exp(p);
                bool best = true;
                for (int c = 0; c < classes; c++)
                    best = best && s.p[c] <= s.p[s.ring];
                sums[1] += best;
                for (int c = 0; c < classes; c++)
                    s.p[c] = s.p[c] / total - (c == s.ring ? 1.0f : 0.0f); /* now a derivative */
                sums[0] -= std::log(1.0 + static_cast<double>(s.p[s.ring])) / batch;
                for (int i = 0; i < hidden; i++)
                    s.dh[i] = 0;
                second.backward(e.data(second.weight), e.grad(second.weight), s.h, s.p, s.dh);
            }
        }
        {
            zero::held hold(e, first.unit);
            for (sample &s : samples) {
                for (int i = 0; i < hidden; i++)
                    s.dh[i] *= 1 - s.h[i] * s.h[i];
                first.backward(nullptr, e.grad(first.weight), s.x, s.dh, nullptr);
            }
        }
        e(zero_micro_end);
        e(zero_step, 0.04);
        e(zero_sum, sums, 2);
        right += step >= steps - 20 ? sums[1] / (20 * batch) : 0;
        if (rank == 0 && step % 50 == 49)
            std::printf("step %3d  loss %.4f\n", step + 1, sums[0]);
    }

    /* Misuse throws an exception with the library's message, and the engine continues. */
    try {
        e(zero_acquire, first.unit);
        throw std::logic_error("a unit could be acquired outside of a pass");
    } catch (const zero::failure &refused) {
        if (refused.status != ZERO_ERR_ORDER)
            throw;
        if (rank == 0)
            std::printf("refused, as it should be: %s\n", refused.what());
    }
    return right;
}

} // namespace

int main()
{
    try {
        zero::handle<zero_comm_t> comm;
        try {
            comm = zero::make(zero_comm_mpi, nullptr, nullptr);
        } catch (const zero::failure &without_mpi) {
            if (without_mpi.status != ZERO_ERR_UNSUPPORTED)
                throw;
            comm = zero::make(zero_comm_self);
        }
        double right = train(comm.get());
        if (zero_comm_rank(comm.get()) == 0)
            std::printf("%.1f %% of the last 20 steps' points are told right\n", 100 * right);
        return right > 0.85 ? 0 : 1;
    } catch (const std::exception &failed) {
        std::fprintf(stderr, "%s\n", failed.what());
        return 1;
    }
}
