// Task: what is learned. Its named weights at the start, the loss with its gradients, and the
// evaluation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gradview/core/bf16.hpp"
#include "gradview/core/spec.hpp"
#include "gradview/models/loss.hpp"
#include "gradview/models/module.hpp"
#include "gradview/models/weights.hpp"

namespace gradview {

// validation and test are of the task adapted to; old is the validation split of the task that the
// start knows.
enum class Split { validation, test, old };

// One task under one seed: start and data order belong to the seed and are shared by all curves.
// Used by several threads.
class Task {
 public:
  virtual ~Task() = default;
  virtual const Weights& start() const = 0;
  virtual std::size_t examples() const = 0;  // of the training split
  // Mean loss and accuracy over the batch (indices below examples()); the gradient of every trained
  // weight goes to `collect`, and may for others.
  virtual Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                                   const Training& training, const Collect& collect) const = 0;
  virtual Score evaluate(const Weights& weights, Split split) const = 0;
  // Weights whose outputs go into a softmax cross-entropy: the columns of their gradient sum to
  // zero.
  virtual std::vector<std::string> before_softmax() const { return {}; }
  // The best accuracy that a projector could reach with all the steps in the world, where that is
  // known.
  virtual std::optional<double> best_accuracy(const Spec&) const { return std::nullopt; }
};

struct TaskContext {
  std::string data;   // folder of the data set; empty: where the system's packages put it
  std::string cache;  // folder for what is costly to make again; empty: the user's cache folder
  std::string shift;  // how the task differs from the one before; empty: the task's own default
  Compute compute = Compute::real;  // of the model, in the training and in what is evaluated
};

struct TaskFamily {
  std::function<std::shared_ptr<const Task>(std::uint64_t seed)> make;  // thread-safe
  std::vector<std::pair<std::string, std::string>>
      record;  // for metadata.json: files, hashes, sizes
};

struct TaskKind {
  std::string name, summary;
  std::vector<OptionHelp> options;
  // Loads the data; throws DataError where it cannot, std::invalid_argument on a bad option.
  std::function<TaskFamily(const Spec&, const TaskContext&)> prepare;
  bool bf16 = false;  // it heeds TaskContext::compute
};

const std::vector<TaskKind>& tasks();
void register_task(TaskKind kind);  // throws std::invalid_argument on a name that is taken
TaskFamily prepare_task(const Spec& spec, const TaskContext& context);

// A task of one function: loss, accuracy and gradients over a batch, or over everything where the
// batch is empty, which is how it is evaluated on every split.
struct FunctionTask {
  Weights start;
  std::function<Score(const Weights&, std::span<const std::size_t> batch, const Collect&)> loss;
  std::size_t examples = 1000;
};
TaskKind function_task(std::string name, std::string summary,
                       std::function<FunctionTask(std::uint64_t seed)> make);

TaskKind fashion_task();
TaskKind teacher_task();
TaskKind quadratic_task();
TaskKind texts_task();

}  // namespace gradview
