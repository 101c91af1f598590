#include "gradview/experiments/task.hpp"

#include <stdexcept>

#include "gradview/core/text.hpp"
#include "gradview/experiments/tasks/bytes.hpp"
#include "gradview/experiments/tasks/parallel.hpp"

namespace gradview {
namespace {

std::vector<TaskKind>& registry() {
  static std::vector<TaskKind> kinds{fashion_task(),  teacher_task(), quadratic_task(),
                                     parallel_task(), bytes_task(),   texts_task()};
  return kinds;
}

class OneFunction final : public Task {
 public:
  explicit OneFunction(FunctionTask task) : task_(std::move(task)) {}
  const Weights& start() const override { return task_.start; }
  std::size_t examples() const override { return task_.examples; }
  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training&, const Collect& collect) const override {
    return task_.loss(weights, batch, collect);
  }
  Score evaluate(const Weights& weights, Split) const override {
    return task_.loss(weights, {}, [](const std::string&, const Gradient&) {});
  }

 private:
  FunctionTask task_;
};

}  // namespace

TaskKind function_task(std::string name, std::string summary,
                       std::function<FunctionTask(std::uint64_t seed)> make) {
  TaskFamily family;
  family.make = [make = std::move(make)](std::uint64_t seed) {
    return std::make_shared<OneFunction>(make(seed));
  };
  return {std::move(name), std::move(summary), {}, [family](const Spec& spec, const TaskContext&) {
            read_options<NoOptions>(spec);
            return family;
          }};
}

const std::vector<TaskKind>& tasks() { return registry(); }

void register_task(TaskKind kind) {
  for (const TaskKind& other : registry()) {
    if (other.name == kind.name) {
      throw std::invalid_argument("register_task: the name '" + kind.name + "' is taken");
    }
  }
  registry().push_back(std::move(kind));
}

TaskFamily prepare_task(const Spec& spec, const TaskContext& context) {
  std::vector<std::string> names;
  for (const TaskKind& kind : registry()) {
    names.push_back(kind.name);
    if (kind.name != spec.name) continue;
    if (context.compute == Compute::bf16 && !kind.bf16) {
      throw std::invalid_argument("--compute bf16 has no meaning for the task " + kind.name);
    }
    return kind.prepare(spec, context);
  }
  throw std::invalid_argument("no task '" + spec.name + "'; there are " + join(names, ", ") +
                              did_you_mean(spec.name, names));
}

}  // namespace gradview
