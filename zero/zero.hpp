/* SPDX-License-Identifier: Apache-2.0 */
/* zero.hpp - libzero from C++17: handles that free themselves, exceptions in place of statuses, and scopes that hold
 * units. Everything else is zero.h's. examples/link/classifier.cc trains with it. */
#ifndef ZERO_ZERO_HPP
#define ZERO_ZERO_HPP

#include <exception>
#include <memory>
#include <stdexcept>
#include <zero/zero.h>

namespace zero
{

/* A call that failed: what() is the library's sentence. */
struct failure : std::runtime_error {
    zero_status_t status;
    int rank; /* as in zero_error_t */
    explicit failure(const zero_error_t &error) : std::runtime_error(error.text), status(error.status), rank(error.rank)
    {
    }
};

/* Destroys a communicator, a device or an engine. Some of these calls are collective: see zero.h. */
struct destroyer {
    void operator()(zero_comm_t *comm) const
    {
        zero_comm_destroy(comm);
    }
    void operator()(zero_device_t *device) const
    {
        zero_device_destroy(device);
    }
    void operator()(zero_engine_t *engine) const
    {
        zero_destroy(engine);
    }
};
/* Owns one of these. Destroy the engine first, then its device. */
template <typename T> using handle = std::unique_ptr<T, destroyer>;

/* make(zero_device_cpu, nullptr) calls zero_device_cpu(&handle, nullptr, &error), and throws if that fails. */
template <typename T, typename... Parameters, typename... Arguments>
handle<T> make(zero_status_t (*create)(T **, Parameters...), Arguments... arguments)
{
    T *made = nullptr;
    zero_error_t error = {};
    if (create(&made, arguments..., &error) != ZERO_OK)
        throw failure(error);
    return handle<T>(made);
}

/* An engine, from zero_create to zero_destroy. */
class engine
{
    handle<zero_engine_t> owned;

  public:
    explicit engine(const zero_config_t &config) : owned(make(zero_create, &config)) {}

    /* e(zero_step, 0.1) calls zero_step(engine, 0.1) and throws if it fails. */
    template <typename... Parameters, typename... Arguments>
    void operator()(zero_status_t (*call)(zero_engine_t *, Parameters...), Arguments... arguments) const
    {
        if (call(owned.get(), arguments...) != ZERO_OK) {
            zero_error_t error = {};
            zero_last_failure(owned.get(), &error);
            throw failure(error);
        }
    }

    /* A parameter and its gradient, as zero_param_data and zero_param_grad have them. T: the type of its elements. */
    template <typename T = float> const T *data(zero_param_t param) const
    {
        return static_cast<const T *>(zero_param_data(owned.get(), param));
    }
    template <typename T = float> T *grad(zero_param_t param) const
    {
        return static_cast<T *>(zero_param_grad(owned.get(), param));
    }

    /* For functions that return no status, such as zero_axis_size. The engine stays the owner. */
    zero_engine_t *get() const
    {
        return owned.get();
    }
};

/* Holds a unit until the end of the scope. If an exception ends the scope, destroying the engine releases the unit. */
class held
{
    const engine &e;
    zero_unit_t unit;
    int exceptions = std::uncaught_exceptions();

  public:
    held(const engine &of, zero_unit_t which) : e(of), unit(which)
    {
        e(zero_acquire, unit);
    }
    held(const held &) = delete;
    held &operator=(const held &) = delete;
    ~held() noexcept(false)
    {
        if (std::uncaught_exceptions() == exceptions)
            e(zero_release, unit);
    }
};

} // namespace zero

#endif
