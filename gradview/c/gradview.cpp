#include "gradview/c/gradview.h"

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

using namespace gradview;

namespace {

struct Entry {
  std::string name;
  Real* memory;
  Matrix weight;     // on that memory
  Gradient pending;  // kept back until all micro-batches are there
};

thread_local std::string last_error;

struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Nothing is thrown past this.
template <class Act>
int guarded(const Act& act) noexcept {
  try {
    try {
      act();
      return GRADVIEW_OK;
    } catch (const NotFinite& error) {
      last_error = error.what();
      return GRADVIEW_NOT_FINITE;
    } catch (const std::invalid_argument& error) {
      last_error = error.what();
      return GRADVIEW_INVALID;
    } catch (const std::exception& error) {
      last_error = error.what();
      return dynamic_cast<const std::bad_alloc*>(&error) ? GRADVIEW_MEMORY : GRADVIEW_FAILED;
    } catch (...) {
      last_error = "unknown failure";
      return GRADVIEW_FAILED;
    }
  } catch (...) {  // no memory for the message
    last_error.clear();
    return GRADVIEW_MEMORY;
  }
}

void require(const void* pointer, const char* function, const char* what) {
  if (!pointer) throw std::invalid_argument(fmt::format("{}: {} is null", function, what));
}

void require_stride(const char* function, const char* what, std::size_t stride, std::size_t cols) {
  if (stride >= cols) return;
  throw std::invalid_argument(
      fmt::format("{}: {} has {} columns and a row stride of {}", function, what, cols, stride));
}

// On the caller's memory where its rows have no gaps, else a copy.
Matrix read(const void* data, Shape shape, std::size_t stride) {
  const auto* from = static_cast<const Real*>(data);
  if (stride == shape.cols || shape.rows <= 1) return borrowed(const_cast<Real*>(from), shape);
  Matrix a = uninitialized(shape);
  for (std::size_t i = 0; i < shape.rows; ++i) {
    std::copy_n(from + i * stride, shape.cols, a.data() + i * shape.cols);
  }
  return a;
}

// What others still hold of an array gets memory of its own.
void let_go(const std::shared_ptr<Matrix>& array) {
  if (array.use_count() > 1) *array = Matrix(*array);
}

// The tokens of each row together.
Gradient embedded(std::size_t m, const std::int64_t* index, const Matrix& x) {
  const auto [tokens, n] = shape_of(x);
  std::map<std::int64_t, std::size_t> place;
  for (std::size_t t = 0; t < tokens; ++t) {
    if (index[t] < 0 || static_cast<std::size_t>(index[t]) >= m) {
      throw std::invalid_argument(
          fmt::format("gradview_collect: index {} is not below {} rows", index[t], m));
    }
    place.try_emplace(index[t], 0);
  }
  std::vector<std::size_t> rows;
  for (auto& [row, at] : place) {
    at = rows.size();
    rows.push_back(static_cast<std::size_t>(row));
  }
  Matrix sums = zeros({rows.size(), n});
  for (std::size_t t = 0; t < tokens; ++t) {
    const Real* from = x.data() + t * n;
    Real* to = sums.data() + place[index[t]] * n;
    for (std::size_t j = 0; j < n; ++j) to[j] += from[j];
  }
  return Gradient::rows(m, std::move(rows), share(std::move(sums)));
}

}  // namespace

struct gradview_optimizer {
  explicit gradview_optimizer(Optimizer::Settings settings) : optimizer(std::move(settings)) {}
  Entry& find(const char* function, const char* name) {
    for (Entry& entry : entries) {
      if (entry.name == name) return entry;
    }
    throw std::invalid_argument(
        fmt::format("{}: no matrix '{}'{}", function, name, did_you_mean(name, optimizer.names())));
  }
  bool keeps_back(const Entry& entry) {
    const Projector& projector = optimizer.projector(entry.name);
    return projector.chooses_from_gradient(optimizer.steps_done()) ||
           (optimizer.steps_done() == 0 && projector.starts_from_gradient());
  }
  bool keeps(const Entry& entry) {
    return keeps_back(entry) || optimizer.keeps_gradient(entry.name);
  }
  void collect(Entry& entry, const Gradient& g) {
    if (keeps_back(entry)) {
      entry.pending.add(g);
    } else {
      optimizer.collect(entry.name, g);
    }
  }
  void release() {
    for (Entry& entry : entries) {
      if (!entry.pending.empty()) optimizer.collect(entry.name, entry.pending);
      entry.pending = Gradient(entry.pending.shape());
    }
  }
  void settle(Entry& entry) const {  // W is in the caller's memory, even where it was moved into
    if (entry.weight.data() == entry.memory) return;
    std::copy_n(entry.weight.data(), entry.weight.size(), entry.memory);
    entry.weight = borrowed(entry.memory, shape_of(entry.weight));
  }

  std::list<Entry> entries;  // where they are made they stay
  Optimizer optimizer;
};

const char* gradview_version(size_t* real_bytes) {
  if (real_bytes) *real_bytes = sizeof(Real);
  return GRADVIEW_VERSION;
}

const char* gradview_error(void) { return last_error.c_str(); }

int gradview_describe(const char* projector, gradview_visit_option visit, void* user) {
  return guarded([&] {
    require(projector, "gradview_describe", "projector");
    if (!visit) throw std::invalid_argument("gradview_describe: visit is null");
    const Spec spec = parse_spec(projector);
    check_projector(spec);
    visit(user, "method", spec.name.c_str());
    for (const OptionHelp& option : find_projector(spec.name).options) {
      const std::string* given = spec.find(option.key);
      const std::string fallback = option.value.substr(0, option.value.find(" ("));  // no choices
      visit(user, option.key.c_str(), (given ? *given : fallback).c_str());
    }
  });
}

int gradview_create(gradview_optimizer** out, const char* optimizer, uint64_t seed, size_t steps,
                    size_t threads) {
  return guarded([&] {
    require(out, "gradview_create", "out");
    require(optimizer, "gradview_create", "optimizer");
    *out = nullptr;
    if (threads > 0) set_threads(threads);
    *out = new gradview_optimizer(
        {.spec = make_optimizer_spec(parse_spec(optimizer)), .steps = steps, .seed = seed});
  });
}

void gradview_destroy(gradview_optimizer* optimizer) { delete optimizer; }

int gradview_add(gradview_optimizer* optimizer, const char* name, const char* projector,
                 void* weight, size_t rows, size_t cols, size_t row_stride, int decayed) {
  return guarded([&] {
    require(optimizer, "gradview_add", "optimizer");
    require(name, "gradview_add", "name");
    require(projector, "gradview_add", "projector");
    require(weight, "gradview_add", "weight");
    const Shape shape{rows, cols};
    if (shape.size() == 0) {
      throw std::invalid_argument(fmt::format("gradview_add: {} is {}", name, to_string(shape)));
    }
    if (row_stride != cols && rows > 1) {
      throw std::invalid_argument(fmt::format(
          "gradview_add: {} has {} columns and a row stride of {}; weights have no gaps", name,
          cols, row_stride));
    }
    const Spec spec = parse_spec(projector);
    check_projector(spec);
    optimizer->entries.push_back({name, static_cast<Real*>(weight),
                                  borrowed(static_cast<Real*>(weight), shape), Gradient(shape)});
    Entry& entry = optimizer->entries.back();
    try {
      optimizer->optimizer.add(
          name, entry.weight,
          make_projector(spec, optimizer->optimizer.new_site(name, entry.weight)), false,
          decayed != 0);
    } catch (...) {
      optimizer->entries.pop_back();
      throw;
    }
  });
}

int gradview_collect(gradview_optimizer* optimizer, const char* name, const void* delta,
                     size_t delta_stride, const int64_t* index, const void* x, size_t x_stride,
                     size_t tokens, int stays) {
  return guarded([&] {
    require(optimizer, "gradview_collect", "optimizer");
    require(name, "gradview_collect", "name");
    Entry& entry = optimizer->find("gradview_collect", name);
    const auto [rows, cols] = shape_of(entry.weight);
    if (delta && index) throw std::invalid_argument("gradview_collect: delta and index are given");
    if (!delta && !index && tokens != rows) {
      throw std::invalid_argument(fmt::format(
          "gradview_collect: the gradient of {} has {} rows, expected {}", name, tokens, rows));
    }
    if (tokens == 0) return;
    require(x, "gradview_collect", "x");
    require_stride("gradview_collect", "x", x_stride, cols);
    if (delta) require_stride("gradview_collect", "delta", delta_stride, rows);
    const auto right = std::make_shared<Matrix>(read(x, {tokens, cols}, x_stride));
    if (index) return optimizer->collect(entry, embedded(rows, index, *right));
    if (!delta) {
      optimizer->collect(entry, Gradient::dense(SharedMatrix(right)));
    } else {
      const auto left = std::make_shared<Matrix>(read(delta, {tokens, rows}, delta_stride));
      if (optimizer->keeps(entry) && rows * cols < tokens * (rows + cols)) {
        return optimizer->collect(entry,
                                  Gradient::dense(matmul_tn(*left, *right)));  // G is smaller
      }
      optimizer->collect(entry, Gradient::outer(left, right));
      if (!stays) let_go(left);
    }
    if (!stays) let_go(right);
  });
}

int gradview_clip(gradview_optimizer* optimizer, double most, double* norm) {
  return guarded([&] {
    require(optimizer, "gradview_clip", "optimizer");
    if (!(most > 0)) throw std::invalid_argument("gradview_clip: most is to be above zero");
    optimizer->release();
    const double before = optimizer->optimizer.clip(most);
    if (norm) *norm = before;
  });
}

int gradview_step(gradview_optimizer* optimizer, const double* lr, size_t count) {
  return guarded([&] {
    require(optimizer, "gradview_step", "optimizer");
    if (count > 0) require(lr, "gradview_step", "lr");
    if (count != optimizer->entries.size()) {
      throw std::invalid_argument(fmt::format("gradview_step: {} learning rates for {} matrices",
                                              count, optimizer->entries.size()));
    }
    for (const Entry& entry : optimizer->entries) {
      if (!entry.pending.finite()) {
        throw NotFinite(fmt::format("the gradient of {} is not finite", entry.name));
      }
    }
    optimizer->release();
    const std::string bad = optimizer->optimizer.not_finite();
    if (!bad.empty()) throw NotFinite(fmt::format("the gradient of {} is not finite", bad));
    optimizer->optimizer.step({lr, count});
    for (Entry& entry : optimizer->entries) optimizer->settle(entry);
  });
}

int gradview_drop(gradview_optimizer* optimizer) {
  return guarded([&] {
    require(optimizer, "gradview_drop", "optimizer");
    for (Entry& entry : optimizer->entries) entry.pending = Gradient(entry.pending.shape());
    optimizer->optimizer.drop();
  });
}

int gradview_fields(gradview_optimizer* optimizer, gradview_visit visit, void* user) {
  return guarded([&] {
    require(optimizer, "gradview_fields", "optimizer");
    if (!visit) throw std::invalid_argument("gradview_fields: visit is null");
    optimizer->optimizer.fields([&](std::string_view name, Matrix& value, Role role) {
      visit(user, std::string(name).c_str(),
            role == Role::trained ? GRADVIEW_TRAINED : GRADVIEW_FROZEN, value.data(),
            value.shape()[0], value.shape()[1]);
    });
  });
}

int gradview_factors(gradview_optimizer* optimizer, const char* name, gradview_visit visit,
                     void* user) {
  return guarded([&] {
    require(optimizer, "gradview_factors", "optimizer");
    require(name, "gradview_factors", "name");
    if (!visit) throw std::invalid_argument("gradview_factors: visit is null");
    Entry& entry = optimizer->find("gradview_factors", name);
    Projector& projector = optimizer->optimizer.projector(name);
    const bool begun = optimizer->optimizer.steps_done() > 0;
    Factors fields, changes, zero;
    bool moved = false;
    projector.fields([&](std::string_view field, Matrix& value, Role role) {
      Matrix next = value;
      visit(user, std::string(field).c_str(),
            role == Role::trained ? GRADVIEW_TRAINED : GRADVIEW_FROZEN, next.data(),
            value.shape()[0], value.shape()[1]);
      const bool same = next == value;
      if (role == Role::trained) {
        changes.push_back(difference(next, value));
        zero.push_back(zeros(shape_of(value)));
        moved = moved || !same;
      } else if (!same && begun) {
        throw std::invalid_argument(
            fmt::format("gradview_factors: '{}' of {} is frozen; it is set before the first step",
                        field, name));
      }
      fields.push_back(std::move(next));
    });
    if (!begun && projector.starts_from_gradient() && moved) {
      throw std::invalid_argument(
          fmt::format("gradview_factors: {} takes its factors from the first gradient; set them "
                      "after the first step",
                      name));
    }
    if (moved) {
      projector.retract({Gradient(shape_of(entry.weight)), zero, changes, 0, zero}, &entry.weight);
      optimizer->settle(entry);
    }
    std::size_t k = 0;  // exactly what was written, where old + (new − old) is rounded
    projector.fields([&](std::string_view, Matrix& value, Role role) {
      const Matrix& next = fields[k++];
      if (role == Role::trained ? moved : !begun) value = next;
    });
  });
}
