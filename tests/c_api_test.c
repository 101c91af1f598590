/* gradview.h as C sees it: steps against their formulas, bad input, state. Compiled as C, once for each library. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gradview.h"

#ifdef GRADVIEW_DOUBLE
typedef double real;
#define EPSILON DBL_EPSILON
#else
typedef float real;
#define EPSILON FLT_EPSILON
#endif

enum { M = 3, N = 4, T = 5, GAP = 7 };

static int failures = 0;
#define CHECK(what)                                                              \
  do {                                                                           \
    if (!(what)) {                                                               \
      printf("%s:%d: %s (%s)\n", __FILE__, __LINE__, #what, gradview_error()); \
      ++failures;                                                                \
    }                                                                            \
  } while (0)
#define REFUSED(call)                               \
  do {                                              \
    CHECK((call) == GRADVIEW_INVALID);              \
    CHECK(strlen(gradview_error()) > 10);           \
    CHECK(strchr(gradview_error(), '\n') == NULL); \
  } while (0)

static void fill(real* out, size_t count, unsigned seed) { /* in (-1, 1) */
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    out[i] = (real)(seed >> 8) / (real)(1u << 23) - 1;
  }
}

/* Sums of T products of numbers below 1, and a few more operations: 4 T ε. */
static int near(const real* a, const real* b, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (!(fabs((double)(a[i] - b[i])) <= 4 * T * EPSILON)) return 0;
  }
  return 1;
}

static gradview_optimizer* make(const char* spec, const char* projector, real* w) {
  gradview_optimizer* optimizer = NULL;
  CHECK(gradview_create(&optimizer, spec, 1, 10, 1) == GRADVIEW_OK);
  CHECK(gradview_add(optimizer, "w", projector, w, M, N, N, 1) == GRADVIEW_OK);
  return optimizer;
}

enum form { FACTORED, DENSE, EMBEDDED };

static void full_steps_along_the_gradient(enum form form) {
  real w[M * N], expected[M * N], g[M * N] = {0}, delta[T * M], x[T * GAP];
  const int64_t index[T] = {2, 0, 2, 2, 0};
  const double lr = 0.25;
  fill(w, M * N, 1), fill(delta, T * M, 2), fill(x, T * GAP, 3);
  for (int k = 0; k < T * M && form == EMBEDDED; ++k) delta[k] = index[k / M] == k % M;
  for (int t = 0; t < T; ++t)
    for (int i = 0; i < M; ++i)
      for (int j = 0; j < N; ++j) g[i * N + j] += delta[t * M + i] * x[t * GAP + j];
  for (int k = 0; k < M * N; ++k) expected[k] = w[k] - (real)lr * g[k];
  gradview_optimizer* optimizer = make("sgd", "full", w);
  if (form == EMBEDDED) {
    CHECK(gradview_collect(optimizer, "w", NULL, 0, index, x, GAP, T, 0) == GRADVIEW_OK);
  } else if (form == DENSE) {
    CHECK(gradview_collect(optimizer, "w", NULL, 0, NULL, g, N, M, 1) == GRADVIEW_OK);
  } else { /* in two micro-batches, the rows of x with gaps between them */
    CHECK(gradview_collect(optimizer, "w", delta, M, NULL, x, GAP, 2, 0) == GRADVIEW_OK);
    CHECK(gradview_collect(optimizer, "w", delta + 2 * M, M, NULL, x + 2 * GAP, GAP, T - 2, 0) == GRADVIEW_OK);
    memset(delta, 0, sizeof delta), memset(x, 0, sizeof x); /* may go: stays is 0 */
  }
  CHECK(gradview_step(optimizer, &lr, 1) == GRADVIEW_OK);
  CHECK(near(w, expected, M * N));
  gradview_destroy(optimizer);
}

struct factors {
  real u[M * 2], v[2 * N];
};

static void read_factors(void* user, const char* name, int role, void* data, size_t rows, size_t cols) {
  struct factors* f = user;
  CHECK(role == GRADVIEW_TRAINED);
  CHECK(rows == (name[0] == 'u' ? (size_t)M : 2u) && cols == (name[0] == 'u' ? 2u : (size_t)N));
  memcpy(name[0] == 'u' ? f->u : f->v, data, rows * cols * sizeof(real));
}

static void write_factors(void* user, const char* name, int role, void* data, size_t rows, size_t cols) {
  (void)role;
  struct factors* f = user;
  memcpy(data, name[0] == 'u' ? f->u : f->v, rows * cols * sizeof(real));
}

static void add_product(real* w, real s, const struct factors* f) {
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j)
      for (int k = 0; k < 2; ++k) w[i * N + j] += s * f->u[i * 2 + k] * f->v[k * N + j];
}

/* W = W0 + s u v after factors were set and after a step: the factors moved along their gradients. */
static void weight_follows_its_factors(void) {
  const real s = 1.5; /* alpha / rank */
  const double lr = 0.125;
  real w[M * N], base[M * N], g[M * N], expected[M * N];
  struct factors f, stepped, after;
  fill(w, M * N, 4), fill(g, M * N, 5), fill(f.u, M * 2, 6), fill(f.v, 2 * N, 7);
  memcpy(base, w, sizeof w);
  gradview_optimizer* optimizer = make("sgd", "lora:rank=2,alpha=3", w);
  CHECK(gradview_factors(optimizer, "w", write_factors, &f) == GRADVIEW_OK);
  memcpy(expected, base, sizeof w), add_product(expected, s, &f);
  CHECK(near(w, expected, M * N));
  CHECK(gradview_factors(optimizer, "w", read_factors, &after) == GRADVIEW_OK);
  CHECK(memcmp(&after, &f, sizeof f) == 0);

  CHECK(gradview_collect(optimizer, "w", NULL, 0, NULL, g, N, M, 0) == GRADVIEW_OK);
  CHECK(gradview_step(optimizer, &lr, 1) == GRADVIEW_OK);
  stepped = f;
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j)
      for (int k = 0; k < 2; ++k) {
        stepped.u[i * 2 + k] -= (real)lr * s * g[i * N + j] * f.v[k * N + j];
        stepped.v[k * N + j] -= (real)lr * s * g[i * N + j] * f.u[i * 2 + k];
      }
  CHECK(gradview_factors(optimizer, "w", read_factors, &after) == GRADVIEW_OK);
  CHECK(near(after.u, stepped.u, M * 2) && near(after.v, stepped.v, 2 * N));
  memcpy(expected, base, sizeof w), add_product(expected, s, &after);
  CHECK(near(w, expected, M * N));
  gradview_destroy(optimizer);
}

struct store {
  real values[1024];
  size_t used;
};

static void save(void* user, const char* name, int role, void* data, size_t rows, size_t cols) {
  struct store* s = user;
  (void)name, (void)role;
  memcpy(s->values + s->used, data, rows * cols * sizeof(real));
  s->used += rows * cols;
}

static void load(void* user, const char* name, int role, void* data, size_t rows, size_t cols) {
  struct store* s = user;
  (void)name, (void)role;
  memcpy(data, s->values + s->used, rows * cols * sizeof(real));
  s->used += rows * cols;
}

static void state_goes_on_bit_for_bit(const char* projector) {
  const char* rule = "adamw:weight_decay=0.1";
  const double lr = 0.01;
  real w[M * N], other[M * N], delta[T * M], x[T * N];
  struct store state = {{0}, 0};
  fill(w, M * N, 8), fill(delta, T * M, 9), fill(x, T * N, 10);
  gradview_optimizer* through = make(rule, projector, w);
  for (int step = 0; step < 3; ++step) {
    CHECK(gradview_collect(through, "w", delta, M, NULL, x, N, T, 0) == GRADVIEW_OK);
    CHECK(gradview_step(through, &lr, 1) == GRADVIEW_OK);
  }
  CHECK(gradview_fields(through, save, &state) == GRADVIEW_OK);
  CHECK(state.used > 1);
  fill(other, M * N, 11);
  gradview_optimizer* again = make(rule, projector, other);
  memcpy(other, w, sizeof w);
  state.used = 0;
  CHECK(gradview_fields(again, load, &state) == GRADVIEW_OK);
  for (int step = 0; step < 3; ++step) {
    gradview_optimizer* both[] = {through, again};
    for (int k = 0; k < 2; ++k) {
      CHECK(gradview_collect(both[k], "w", delta, M, NULL, x, N, T, 0) == GRADVIEW_OK);
      CHECK(gradview_step(both[k], &lr, 1) == GRADVIEW_OK);
    }
  }
  CHECK(memcmp(w, other, sizeof w) == 0);
  gradview_destroy(through), gradview_destroy(again);
}

static void what_is_not_finite_moves_nothing(void) {
  const double lr = 0.1;
  real w[M * N], before[M * N], g[M * N];
  fill(w, M * N, 12), fill(g, M * N, 13);
  memcpy(before, w, sizeof w);
  gradview_optimizer* optimizer = make("adamw", "lora:rank=2", w);
  g[5] = (real)NAN;
  CHECK(gradview_collect(optimizer, "w", NULL, 0, NULL, g, N, M, 0) == GRADVIEW_OK);
  CHECK(gradview_step(optimizer, &lr, 1) == GRADVIEW_NOT_FINITE);
  CHECK(memcmp(w, before, sizeof w) == 0);
  CHECK(gradview_drop(optimizer) == GRADVIEW_OK);
  CHECK(gradview_step(optimizer, &lr, 1) == GRADVIEW_OK); /* nothing collected: nothing moves */
  CHECK(memcmp(w, before, sizeof w) == 0);
  g[5] = 1;
  CHECK(gradview_collect(optimizer, "w", NULL, 0, NULL, g, N, M, 0) == GRADVIEW_OK);
  CHECK(gradview_step(optimizer, &lr, 1) == GRADVIEW_OK);
  CHECK(memcmp(w, before, sizeof w) != 0);
  gradview_destroy(optimizer);
}

static void clipping_shrinks_to_the_norm(void) {
  const double lr = 1;
  double norm = 0, length = 0, moved = 0;
  real w[M * N], before[M * N], g[M * N];
  fill(w, M * N, 14), fill(g, M * N, 15);
  memcpy(before, w, sizeof w);
  for (int k = 0; k < M * N; ++k) length += (double)g[k] * g[k];
  gradview_optimizer* optimizer = make("sgd", "full", w);
  CHECK(gradview_collect(optimizer, "w", NULL, 0, NULL, g, N, M, 1) == GRADVIEW_OK);
  CHECK(gradview_clip(optimizer, 0.5, &norm) == GRADVIEW_OK);
  CHECK(fabs(norm - sqrt(length)) <= 4 * T * EPSILON);
  CHECK(gradview_step(optimizer, &lr, 1) == GRADVIEW_OK);
  for (int k = 0; k < M * N; ++k) moved += (double)(w[k] - before[k]) * (w[k] - before[k]);
  CHECK(fabs(sqrt(moved) - 0.5) <= 4 * T * EPSILON);
  gradview_destroy(optimizer);
}

static void count_options(void* user, const char* key, const char* value) {
  int* found = user;
  if (strcmp(key, "method") == 0) *found += strcmp(value, "lora") == 0;
  if (strcmp(key, "rank") == 0) *found += strcmp(value, "3") == 0;
  if (strcmp(key, "scaling") == 0) *found += strcmp(value, "standard") == 0;
}

static void bad_input_is_refused(void) {
  const double lr = 0.1;
  double norm;
  int found = 0;
  real w[M * N] = {0}, delta[T * M] = {0}, x[T * N] = {0};
  const int64_t bad[T] = {0, 1, M, 1, 2};
  gradview_optimizer* none = NULL;
  gradview_optimizer* optimizer = make("sgd", "full", w);
  REFUSED(gradview_create(NULL, "sgd", 0, 0, 0));
  REFUSED(gradview_create(&none, NULL, 0, 0, 0));
  REFUSED(gradview_create(&none, "adan", 0, 0, 0));
  REFUSED(gradview_create(&none, "adam:beta1=2", 0, 0, 0));
  CHECK(none == NULL);
  REFUSED(gradview_add(NULL, "a", "full", w, M, N, N, 1));
  REFUSED(gradview_add(optimizer, NULL, "full", w, M, N, N, 1));
  REFUSED(gradview_add(optimizer, "a", NULL, w, M, N, N, 1));
  REFUSED(gradview_add(optimizer, "a", "full", NULL, M, N, N, 1));
  REFUSED(gradview_add(optimizer, "a", "full", w, M, N, N + 1, 1));
  REFUSED(gradview_add(optimizer, "a", "full", w, 0, N, N, 1));
  REFUSED(gradview_add(optimizer, "a", "lorra", w, M, N, N, 1));
  REFUSED(gradview_add(optimizer, "a", "lora:rank=0", w, M, N, N, 1));
  REFUSED(gradview_add(optimizer, "w", "full", w, M, N, N, 1));
  REFUSED(gradview_collect(NULL, "w", delta, M, NULL, x, N, T, 0));
  REFUSED(gradview_collect(optimizer, NULL, delta, M, NULL, x, N, T, 0));
  REFUSED(gradview_collect(optimizer, "v", delta, M, NULL, x, N, T, 0));
  REFUSED(gradview_collect(optimizer, "w", delta, M, NULL, NULL, N, T, 0));
  REFUSED(gradview_collect(optimizer, "w", delta, M - 1, NULL, x, N, T, 0));
  REFUSED(gradview_collect(optimizer, "w", delta, M, NULL, x, N - 1, T, 0));
  REFUSED(gradview_collect(optimizer, "w", delta, M, bad, x, N, T, 0));
  REFUSED(gradview_collect(optimizer, "w", NULL, 0, bad, x, N, T, 0));
  REFUSED(gradview_collect(optimizer, "w", NULL, 0, NULL, x, N, M + 1, 0));
  REFUSED(gradview_clip(NULL, 1, &norm));
  REFUSED(gradview_clip(optimizer, 0, &norm));
  REFUSED(gradview_clip(optimizer, NAN, &norm));
  REFUSED(gradview_step(NULL, &lr, 1));
  REFUSED(gradview_step(optimizer, NULL, 1));
  REFUSED(gradview_step(optimizer, &lr, 2));
  REFUSED(gradview_drop(NULL));
  REFUSED(gradview_fields(NULL, save, NULL));
  REFUSED(gradview_fields(optimizer, NULL, NULL));
  REFUSED(gradview_factors(optimizer, "v", read_factors, NULL));
  REFUSED(gradview_factors(optimizer, "w", NULL, NULL));
  REFUSED(gradview_describe(NULL, count_options, NULL));
  REFUSED(gradview_describe("lora:rnk=3", count_options, &found));
  CHECK(gradview_describe("lora:rank=3", count_options, &found) == GRADVIEW_OK && found == 3);
  CHECK(gradview_collect(optimizer, "w", delta, M, NULL, NULL, N, 0, 0) == GRADVIEW_OK); /* no tokens */
  gradview_destroy(optimizer);
  gradview_destroy(NULL);
}

int main(void) {
  size_t bytes = 0;
  CHECK(strchr(gradview_version(&bytes), '.') != NULL);
  CHECK(bytes == sizeof(real));
  full_steps_along_the_gradient(FACTORED);
  full_steps_along_the_gradient(DENSE);
  full_steps_along_the_gradient(EMBEDDED);
  weight_follows_its_factors();
  const char* projectors[] = {"full", "lora:rank=2", "dora:rank=2", "random:rank=2", "galore:rank=2",
                              "apollo:rank=2", "adalora:rank=2,tinit=0,deltaT=1"};
  for (size_t k = 0; k < sizeof projectors / sizeof *projectors; ++k) state_goes_on_bit_for_bit(projectors[k]);
  what_is_not_finite_moves_nothing();
  clipping_shrinks_to_the_norm();
  bad_input_is_refused();
  if (failures == 0) printf("gradview.h does what it says in %zu bytes a number\n", bytes);
  return failures > 0;
}
