// fashion: an MLP that knows Fashion-MNIST one way learns it another way.
//
// Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, arXiv:1708.07747. 784-256-128-10 is pre-trained on
// the upright images (or on the classes 0–4), one network per seed, and adapted to the rotated ones
// (or to the classes 5–9; then only the logits of a task's own classes take part). One twelfth of
// the training images is held out from both trainings, for validation. The pre-training is in float
// whatever the adaptation computes in.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/task.hpp"
#include "gradview/experiments/tasks/images.hpp"
#include "gradview/experiments/tasks/pretrained.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/io/files.hpp"
#include "gradview/models/mlp.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr std::size_t kClasses = 10;
constexpr const char* kSystemData = "/usr/share/datasets/fashion-mnist";

struct Options {
  std::size_t pretrain_steps = 2000;
  std::size_t pretrain_batch = 128;
  double pretrain_lr = 1e-3;
  Activation activation = Activation::relu;
  void declare(OptionSet& o) {
    o.count("pretrain_steps", pretrain_steps, {.least = 1}, "steps of Adam on the old task");
    o.count("pretrain_batch", pretrain_batch, {.least = 1}, "images in a batch of the old task");
    o.number("pretrain_lr", pretrain_lr, {.least = 0, .open_below = true}, "its rate, cosine to 0");
    o.choice("activation", activation,
             {{"relu", Activation::relu}, {"gelu", Activation::gelu}, {"tanh", Activation::tanh}},
             "of the hidden layers");
  }
};

struct Domain {  // one side of the shift
  Classes classes;
  Images train, validation, test;
};

struct Data {
  Mlp model;
  Domain old_task, new_task;
  Matrix old_validation, validation, test;  // as matrices, made once
};

class Fashion final : public Task {
 public:
  Fashion(std::shared_ptr<const Data> data, Weights start, Compute compute = Compute::real)
      : data_(std::move(data)), model_(data_->model), start_(std::move(start)) {
    model_.compute = compute;
  }

  const Weights& start() const override { return start_; }
  std::size_t examples() const override { return data_->new_task.train.size(); }
  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training&, const Collect& collect) const override {
    return gradients(data_->new_task, weights, batch, collect);
  }
  Score evaluate(const Weights& weights, Split split) const override {
    switch (split) {
      case Split::old:
        return score(weights, data_->old_validation, data_->old_task, data_->old_task.validation);
      case Split::validation:
        return score(weights, data_->validation, data_->new_task, data_->new_task.validation);
      case Split::test:
        return score(weights, data_->test, data_->new_task, data_->new_task.test);
    }
    return {};
  }
  std::vector<std::string> before_softmax() const override {
    return {model_.weight_name(model_.layers() - 1)};
  }

  Score gradients(const Domain& domain, const Weights& weights, std::span<const std::size_t> batch,
                  const Collect& collect) const {
    auto pass = model_.forward(weights, domain.train.batch(batch));
    Matrix delta;
    const Score score =
        softmax_cross_entropy(pass.outputs, domain.train.labels_of(batch), domain.classes, &delta);
    model_.backward(std::move(pass), std::move(delta), collect);
    return score;
  }

 private:
  Score score(const Weights& weights, const Matrix& x, const Domain& domain,
              const Images& images) const {
    return softmax_cross_entropy(model_.outputs(weights, x), images.labels, domain.classes);
  }

  std::shared_ptr<const Data> data_;
  Mlp model_;
  Weights start_;
};

Weights pretrained(const std::shared_ptr<const Data>& data, const Options& o, std::uint64_t seed) {
  Weights weights = data->model.initial(seed);
  const Fashion task(data, {});
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adam")),
                       .lr = o.pretrain_lr,
                       .schedule = make_schedule("cosine"),
                       .steps = o.pretrain_steps,
                       .seed = seed});
  for (auto& [name, value] : weights) {
    optimizer.add(name, value, make_projector({"full", {}}, Site{name, value}));
  }
  BatchOrder order(seed, data->old_task.train.size());
  for (std::size_t step = 0; step < o.pretrain_steps; ++step) {
    throw_if_stop_requested();
    task.gradients(data->old_task, weights, order.next(o.pretrain_batch),
                   [&](const std::string& name, const Gradient& g) { optimizer.collect(name, g); });
    optimizer.step();
  }
  return weights;
}

struct Shift {
  bool classes = false;
  double degrees = 90;
};

Shift read_shift(const std::string& text) {
  const std::vector<std::string> words = split(text.empty() ? "rotate:90" : text, ':');
  if (words.size() == 1 && words[0] == "classes") return {.classes = true};
  if (words.size() == 2 && words[0] == "rotate") {
    return {.degrees = checked_number("--shift rotate", words[1], {.least = -360, .most = 360})};
  }
  throw std::invalid_argument("--shift is '" + text + "'; there are rotate:DEGREES, classes" +
                              did_you_mean(words[0], {"rotate", "classes"}));
}

std::vector<std::size_t> with_classes(const Images& images, Classes classes, std::size_t first,
                                      std::size_t last) {
  std::vector<std::size_t> out;
  for (std::size_t i = first; i < last; ++i) {
    if (images.labels[i] >= classes.first && images.labels[i] < classes.last) out.push_back(i);
  }
  return out;
}

Domain domain(const Images& train, const Images& test, Classes classes) {
  const std::size_t held_out = train.size() / 12;  // 5,000 of 60,000
  const std::size_t kept = train.size() - held_out;
  Domain out{classes, train.subset(with_classes(train, classes, 0, kept)),
             train.subset(with_classes(train, classes, kept, train.size())),
             test.subset(with_classes(test, classes, 0, test.size()))};
  if (out.train.size() == 0 || out.validation.size() == 0 || out.test.size() == 0) {
    throw DataError("the data set is too small: a split has no image");
  }
  return out;
}

TaskFamily prepare(const Spec& spec, const TaskContext& context) {
  const auto o = read_options<Options>(spec);
  const Shift shift = read_shift(context.shift);
  const std::string folder = context.data.empty() ? kSystemData : context.data;
  if (!std::filesystem::is_directory(folder)) {
    throw DataError(folder +
                    ": no such folder; install the Debian package dataset-fashion-mnist, "
                    "or give the folder of the four IDX files with --data DIR");
  }
  const Images train = read_images(folder, "train", kClasses);
  const Images test = read_images(folder, "t10k", kClasses);
  if (train.height != test.height || train.width != test.width) {
    throw DataError(folder + ": the training and the test images differ in size");
  }
  auto data = std::make_shared<Data>();
  data->model = Mlp{{train.height * train.width, 256, 128, kClasses}, o.activation};
  const Classes all{0, kClasses};
  if (shift.classes) {
    data->old_task = domain(train, test, {0, kClasses / 2});
    data->new_task = domain(train, test, {kClasses / 2, kClasses});
  } else {
    data->old_task = domain(train, test, all);
    data->new_task = domain(rotated(train, shift.degrees), rotated(test, shift.degrees), all);
  }
  data->old_validation = data->old_task.validation.all();
  data->validation = data->new_task.validation.all();
  data->test = data->new_task.test.all();

  TaskFamily family;
  std::string hashes;
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                           "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    const std::string hash = sha256_of_file(image_file(folder, name));
    family.record.emplace_back(std::string("sha256 of ") + name, hash);
    hashes += hash;
  }
  family.record.emplace_back("data", folder);
  family.record.emplace_back("training images", std::to_string(data->new_task.train.size()));
  family.record.emplace_back("validation images", std::to_string(data->new_task.validation.size()));
  family.record.emplace_back("test images", std::to_string(data->new_task.test.size()));
  // All that makes the pre-trained network. Rotations share it: it saw the upright images only.
  const std::string key = fmt::format(
      "gradview fashion 1; data {}; {}; sizes 256-128; activation {}; adam {} x {} at {}; real {}",
      hashes, shift.classes ? "classes 0-4" : "all classes", static_cast<int>(o.activation),
      o.pretrain_steps, o.pretrain_batch, exact(o.pretrain_lr), sizeof(Real));
  family.make = [data, o, key, cache = cache_folder(context),
                 compute = context.compute](std::uint64_t seed) {
    const std::string made_by = fmt::format("{}; seed {}", key, seed);
    return std::make_shared<Fashion>(
        data,
        cached_weights(cache, "mlp", made_by, data->model.initial(seed),
                       [&] { return pretrained(data, o, seed); }),
        compute);
  };
  return family;
}

}  // namespace

TaskKind fashion_task() {
  return {"fashion", "Fashion-MNIST, pre-trained upright and adapted to a shift",
          describe_options<Options>("fashion"), prepare, /*bf16=*/true};
}

}  // namespace gradview
