/* gradview.h: GradView's optimizer behind a C interface, for models that live elsewhere.
 *
 *     gradview_create   an optimizer, from a spec such as "adamw:weight_decay=0.01"
 *     gradview_add      a matrix W (m x n, y = W x) in the caller's memory, and how it is trained: "lora:rank=8"
 *     gradview_collect  after each layer's backward pass: its output gradients and inputs
 *     gradview_step     moves every W that got a gradient, in place
 *
 * libgradview_c computes in float, libgradview_c64 in double; "real" below is that type. Matrices are
 * row-major, with a stride: the number of reals from the beginning of one row to the next. The weights have
 * no gaps between rows, and stay where they are while the optimizer lives.
 *
 * Functions return GRADVIEW_OK or what went wrong; gradview_error() then has one line about it. After
 * GRADVIEW_INVALID and GRADVIEW_NOT_FINITE no weight has moved. One optimizer is used by one thread at a time; several may live side by side.
 * The functions, their arguments and the values of the enums stay as they are within one minor version.
 */
#ifndef GRADVIEW_C_GRADVIEW_H
#define GRADVIEW_C_GRADVIEW_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GRADVIEW_EXPORT __attribute__((visibility("default")))
#else
#define GRADVIEW_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum gradview_status {
  GRADVIEW_OK = 0,
  GRADVIEW_INVALID = 1,    /* an argument: null, a shape, a stride, a name, a spec */
  GRADVIEW_NOT_FINITE = 2, /* a gradient has infinities or NaN */
  GRADVIEW_MEMORY = 3,
  GRADVIEW_FAILED = 4
};

enum gradview_role {
  GRADVIEW_TRAINED = 0, /* a factor */
  GRADVIEW_FROZEN = 1   /* other state: frames, moments, counters */
};

typedef struct gradview_optimizer gradview_optimizer;

/* Called with one matrix of state after the other: rows x cols reals without gaps. What is written to
 * `data` is taken; `data` and `name` are gone when the call returns. */
typedef void (*gradview_visit)(void* user, const char* name, int role, void* data, size_t rows, size_t cols);
typedef void (*gradview_visit_option)(void* user, const char* key, const char* value);

/* "0.1.0"; and the size of a real in bytes, where the pointer is not null. */
GRADVIEW_EXPORT const char* gradview_version(size_t* real_bytes);
/* Of the last failure in this thread; never null. */
GRADVIEW_EXPORT const char* gradview_error(void);
/* The method of a spec under the key "method", and all its options, those at their defaults too ("= rank": that
 * of another option). */
GRADVIEW_EXPORT int gradview_describe(const char* projector, gradview_visit_option visit, void* user);

/* steps: of the whole run, for methods with a schedule of their own (adalora); 0 where it is not known.
 * threads: of this library in the process, from now on; 0 leaves them. */
GRADVIEW_EXPORT int gradview_create(gradview_optimizer** out, const char* optimizer, uint64_t seed, size_t steps,
                                    size_t threads);
GRADVIEW_EXPORT void gradview_destroy(gradview_optimizer* optimizer); /* null is fine */

/* name: unique; it keys the matrix's random numbers. decayed: 0 takes it out of weight decay. */
GRADVIEW_EXPORT int gradview_add(gradview_optimizer* optimizer, const char* name, const char* projector,
                                 void* weight, size_t rows, size_t cols, size_t row_stride, int decayed);

/* Adds to the gradient of the step. x: tokens x cols of W;
 *     delta (tokens x rows of W) given      deltaᵀ x
 *     index given                           the sum of the x_t in row index[t], as an embedding has it
 *     neither                               x itself, tokens = rows of W
 * Micro-batches and layers that share W follow each other. stays: non-zero where the arrays stay as they
 * are until the step; else what is needed later is copied. */
GRADVIEW_EXPORT int gradview_collect(gradview_optimizer* optimizer, const char* name, const void* delta,
                                     size_t delta_stride, const int64_t* index, const void* x, size_t x_stride,
                                     size_t tokens, int stays);
/* The norm of all factor gradients together; if above most, they are scaled down to it. */
GRADVIEW_EXPORT int gradview_clip(gradview_optimizer* optimizer, double most, double* norm);
/* One learning rate for each matrix, in the order of gradview_add. What has no gradient does not move. */
GRADVIEW_EXPORT int gradview_step(gradview_optimizer* optimizer, const double* lr, size_t count);
/* Forgets what was collected for this step. */
GRADVIEW_EXPORT int gradview_drop(gradview_optimizer* optimizer);

/* All state that outlives a step, for checkpoints: "step", "fc1.u", "fc1.moments.0.first" … The weights are
 * the caller's. Another optimizer, made by the same calls and given these values and weights, goes on as
 * this one would, bit for bit. */
GRADVIEW_EXPORT int gradview_fields(gradview_optimizer* optimizer, gradview_visit visit, void* user);
/* The factors of one matrix by their names: "u", "v" … W follows what is written to a factor. Frozen ones
 * can be written before the first step, and W does not follow. */
GRADVIEW_EXPORT int gradview_factors(gradview_optimizer* optimizer, const char* name, gradview_visit visit,
                                     void* user);

#ifdef __cplusplus
}
#endif

#endif
