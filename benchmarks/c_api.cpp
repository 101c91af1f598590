// What peers/peers.py loads into the process of another framework, so that both run in the slots of
// one race. A task is made of its kind and sizes, its matrices are set and read by name.
#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "block.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "limits.hpp"
#include "row.hpp"

namespace gradview::benchmarks {
namespace {

using Named = std::function<void(std::string_view, Matrix&)>;

constexpr double kRate = 1e-4;  // of every Adam here; the peers use the same

struct Task {
  virtual ~Task() = default;
  virtual void matrices(const Named& visit) = 0;
  virtual void call() = 0;
};

struct ProjectTask final : Task {  // sizes: m, n, r
  explicit ProjectTask(const std::size_t* s)
      : g(zeros({s[0], s[1]})), u(zeros({s[0], s[2]})), v(zeros({s[2], s[1]})), out{u, v} {}
  void matrices(const Named& visit) override {
    visit("g", g);
    visit("u", u);
    visit("v", v);
    visit("gv", out.right);
    visit("ug", out.left);
    gradient.reset();
  }
  void call() override {
    if (!gradient) gradient = Gradient::dense(g);
    out = project(*gradient, u, v);
  }
  Matrix g, u, v;
  Sides out;
  std::optional<Gradient> gradient;
};

struct UpdateTask final : Task {  // sizes: m, n, r;  w += du v + u dv
  explicit UpdateTask(const std::size_t* s)
      : w(zeros({s[0], s[1]})), u(zeros({s[0], s[2]})), v(zeros({s[2], s[1]})), du(u), dv(v) {}
  void matrices(const Named& visit) override {
    visit("w", w);
    visit("u", u);
    visit("v", v);
    visit("du", du);
    visit("dv", dv);
  }
  void call() override { move_product(w, u, v, du, dv); }
  Matrix w, u, v, du, dv;
};

struct AdamTask final : Task {  // sizes: m, n
  explicit AdamTask(const std::size_t* s)
      : layer({s[0], s[1]}, "full", "adam", kRate), g(zeros({s[0], s[1]})) {}
  void matrices(const Named& visit) override {
    visit("w", layer.weight);
    visit("g", g);
    gradient.reset();
  }
  void call() override {
    if (!gradient) gradient = Gradient::dense(g);
    layer.step(*gradient);
  }
  Layer layer;
  Matrix g;
  std::optional<Gradient> gradient;
};

struct BlockTask final : Task {  // sizes: width, tokens
  BlockTask(const std::size_t* s, const std::string& projector, Compute compute = Compute::real)
      : block(s[0], s[1], projector, "adam", kRate) {
    block.model.compute = compute;
    block.y = zeros({s[1], s[0]});
    block.dx = block.y;
  }
  void matrices(const Named& visit) override {
    visit("x", block.x);
    visit("delta", block.delta);
    visit("y", block.y);
    visit("dx", block.dx);
    for (auto& [name, weight] : block.weights) visit(name, weight);
    block.optimizer.fields([&](std::string_view name, Matrix& value, Role) { visit(name, value); });
  }
  void call() override { block.step(); }
  Block block;
};

std::unique_ptr<Task> make(const std::string& kind, const std::size_t* sizes) {
  if (kind == "project") return std::make_unique<ProjectTask>(sizes);
  if (kind == "update") return std::make_unique<UpdateTask>(sizes);
  if (kind == "adam") return std::make_unique<AdamTask>(sizes);
  if (kind == "block lora") return std::make_unique<BlockTask>(sizes, "lora:rank=8");
  if (kind == "block full") return std::make_unique<BlockTask>(sizes, "full");
  if (kind == "block lora bf16") {
    if (!bf16_runs_here()) throw std::runtime_error(kind + ": " + bf16_description());
    return std::make_unique<BlockTask>(sizes, "lora:rank=8", Compute::bf16);
  }
  throw std::invalid_argument("no task '" + kind +
                              "'; there are project, update, adam, block lora, block full, "
                              "block lora bf16");
}

void copy(Task& task, const std::string& name, std::size_t count,
          const std::function<void(Matrix&)>& how) {
  std::vector<std::string> names;
  bool found = false;
  task.matrices([&](std::string_view one, Matrix& value) {
    names.emplace_back(one);
    if (one != name) return;
    if (value.size() != count) {
      throw std::invalid_argument(name + " is " + to_string(shape_of(value)) + ", " +
                                  std::to_string(count) + " numbers were given");
    }
    found = true;
    how(value);
  });
  if (!found) {
    throw std::invalid_argument("no matrix '" + name + "'; there are " + join(names, ", "));
  }
}

thread_local std::string g_error;

template <class Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    g_error = error.what();
  } catch (const Interrupted&) {
    g_error = "interrupted";
  }
  return 1;
}

}  // namespace
}  // namespace gradview::benchmarks

// Functions return 0, or 1 with the reason in gv_error.
extern "C" {

using gradview::benchmarks::Task;

const char* gv_error() { return gradview::benchmarks::g_error.c_str(); }
const char* gv_instruction_set() {
  static const std::string name = gradview::benchmarks::instruction_set();
  return name.c_str();
}
const char* gv_blas() {
  static const std::string name = gradview::blas_description();
  return name.c_str();
}
void gv_threads(std::size_t threads) { gradview::set_threads(threads); }

Task* gv_make(const char* kind, const std::size_t* sizes) {
  Task* made = nullptr;
  gradview::benchmarks::guarded([&] { made = gradview::benchmarks::make(kind, sizes).release(); });
  return made;
}
void gv_free(Task* task) { delete task; }

int gv_set(Task* task, const char* name, const gradview::Real* from, std::size_t count) {
  return gradview::benchmarks::guarded([&] {
    gradview::benchmarks::copy(*task, name, count,
                               [&](gradview::Matrix& to) { std::copy_n(from, count, to.data()); });
  });
}
int gv_get(Task* task, const char* name, gradview::Real* to, std::size_t count) {
  return gradview::benchmarks::guarded([&] {
    gradview::benchmarks::copy(
        *task, name, count, [&](gradview::Matrix& from) { std::copy_n(from.data(), count, to); });
  });
}
int gv_run(Task* task, std::size_t calls) {
  return gradview::benchmarks::guarded([&] {
    for (std::size_t i = 0; i < calls; ++i) task->call();
  });
}

// Runs the contenders, callbacks that are told how many calls to make, in slots. seconds gets, per
// contender, the time per call in every round; note what Race::note says.
using Run = void (*)(std::size_t calls);
int gv_race(std::size_t contenders, const char* const* names, const Run* runs, double slot_seconds,
            std::size_t rounds, double* seconds, char* note, std::size_t note_size) {
  return gradview::benchmarks::guarded([&] {
    std::vector<gradview::benchmarks::Contender> all;
    for (std::size_t i = 0; i < contenders; ++i) all.push_back({names[i], runs[i]});
    const gradview::benchmarks::Race race(
        all, {.seconds = slot_seconds, .rounds = rounds, .retries = rounds});
    for (std::size_t i = 0; i < contenders; ++i) {
      seconds = std::copy(race.seconds(i).begin(), race.seconds(i).end(), seconds);
    }
    std::strncpy(note, race.note().c_str(), note_size - 1);
    note[note_size - 1] = '\0';
  });
}

// figure gets the median of the values, and the lower and upper end of its interval.
void gv_median_interval(const double* values, std::size_t count, double* figure) {
  const auto [median, low, high] = gradview::benchmarks::median_interval({values, values + count});
  figure[0] = median;
  figure[1] = low;
  figure[2] = high;
}

}  // extern "C"
