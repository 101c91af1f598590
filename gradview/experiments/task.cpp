#include "gradview/experiments/task.hpp"

#include <stdexcept>

#include "gradview/core/text.hpp"

namespace gradview {
namespace {

std::vector<TaskKind>& registry() {
  static std::vector<TaskKind> kinds{fashion_task(), teacher_task()};
  return kinds;
}

}  // namespace

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
    if (kind.name == spec.name) return kind.prepare(spec, context);
    names.push_back(kind.name);
  }
  throw std::invalid_argument("no task '" + spec.name + "'; there are " + join(names, ", ") +
                              did_you_mean(spec.name, names));
}

}  // namespace gradview
