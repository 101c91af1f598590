// texts: an encoder that knows language learns to tell classes of texts.
//
// The texts are a file of tokens (io/token_file.hpp; scripts/tokenize makes it), the encoder is a
// checkpoint (io/hf.hpp) with a head for all classes of the file. The shift is one of classes, by
// how their names begin:
//
//     noun:verb    the start has learned, in full, the classes noun.…; verb.… is to be learned. Only
//                  the logits of a task's own classes take part, in training and in evaluation, since
//                  a shared head forgets classes that it no longer sees trivially. `old`: noun's
//                  validation texts
//     all          every class, from the checkpoint itself, its head as read or drawn; `old` is the same
//                  validation texts
//
// Test, validation and training texts are cut, in this order, from a shuffle of the file's rows that
// belongs to no seed. All seeds share one start unless start_seed=0.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/task.hpp"
#include "gradview/experiments/tasks/pretrained.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/io/files.hpp"
#include "gradview/io/hf.hpp"
#include "gradview/io/token_file.hpp"
#include "gradview/models/text_model.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr std::size_t kChunk = 64;  // texts in one pass of an evaluation

struct Options {
  std::string model;
  Pooling pooling = Pooling::cls;
  bool dropout = false;
  std::size_t validation = 500, test = 2000, start_seed = 1;
  std::size_t pretrain_steps = 600, pretrain_batch = 32;
  double pretrain_lr = 1e-4;
  void declare(OptionSet& o) {
    o.text("model", model, "that scripts/fetch-minilm fetches", "folder of the checkpoint");
    o.choice("pooling", pooling, {{"cls", Pooling::cls}, {"mean", Pooling::mean}},
             "what the head sees: the pooler of the first token, or the mean of all");
    o.flag("dropout", dropout, "in training, as the checkpoint says");
    o.count("validation", validation, {.least = 1}, "texts of a validation split, at most");
    o.count("test", test, {.least = 1}, "texts of the test split, at most");
    o.count("start_seed", start_seed, {}, "of the start that all seeds share; 0: each its own");
    o.count("pretrain_steps", pretrain_steps, {.least = 1}, "steps of Adam on the old classes");
    o.count("pretrain_batch", pretrain_batch, {.least = 1}, "texts in one of them");
    o.number("pretrain_lr", pretrain_lr, {.least = 0, .open_below = true}, "its rate, cosine to 0");
  }
};

using Rows = std::vector<std::size_t>;  // of the file

struct Domain {  // one side of the shift
  Classes classes;
  Rows train, validation, test;
  TextModel model;
};

struct Data {
  TokenFile file;
  Domain old_classes, new_classes;

  TextBatch batch(const Domain& domain, std::span<const std::size_t> rows) const {
    std::vector<std::int32_t> labels;
    for (const std::size_t row : rows) labels.push_back(file.labels()[row]);
    return domain.model.batch(file.batch(rows, domain.model.keeps_first()), labels);
  }
};

class Texts final : public Task {
 public:
  Texts(std::shared_ptr<const Data> data, std::shared_ptr<const Weights> start, bool dropout)
      : data_(std::move(data)), start_(std::move(start)), dropout_(dropout) {}
  const Weights& start() const override { return *start_; }
  std::size_t examples() const override { return data_->new_classes.train.size(); }
  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training& training, const Collect& collect) const override {
    const Domain& domain = data_->new_classes;
    Rows rows;
    for (const std::size_t i : batch) rows.push_back(domain.train[i]);
    Training with = training;
    if (!dropout_) with.dropout.reset();
    return domain.model.loss_and_gradients(weights, data_->batch(domain, rows), with, collect);
  }
  Score evaluate(const Weights& weights, Split split) const override {
    const Domain& domain = split == Split::old ? data_->old_classes : data_->new_classes;
    const Rows& rows = split == Split::test ? domain.test : domain.validation;
    MeanScore mean;
    for (std::size_t first = 0; first < rows.size(); first += kChunk) {
      const std::size_t count = std::min(kChunk, rows.size() - first);
      const TextBatch batch = data_->batch(domain, std::span(rows).subspan(first, count));
      mean.add(domain.model.score(weights, batch), batch.units());
    }
    return mean.value();
  }
  std::vector<std::string> before_softmax() const override {
    return {data_->new_classes.model.classifier().head + ".weight"};
  }

 private:
  std::shared_ptr<const Data> data_;
  std::shared_ptr<const Weights> start_;
  bool dropout_;
};

Weights adapted_in_full(const Data& data, Weights weights, const Options& o, std::uint64_t seed) {
  const Domain& domain = data.old_classes;
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adam")),
                       .lr = o.pretrain_lr,
                       .schedule = make_schedule("cosine"),
                       .steps = o.pretrain_steps,
                       .seed = seed});
  Training training;
  for (auto& [name, value] : weights) {
    optimizer.add(name, value, make_projector({"full", {}}, Site{name, value}));
    training.trained.insert(name);
  }
  BatchOrder order(seed, domain.train.size(), "old");
  for (std::size_t step = 0; step < o.pretrain_steps; ++step) {
    throw_if_stop_requested();
    Rows rows;
    for (const std::size_t i : order.next(o.pretrain_batch)) rows.push_back(domain.train[i]);
    if (o.dropout) training.dropout = Dropout{seed, step};
    domain.model.loss_and_gradients(
        weights, data.batch(domain, rows), training,
        [&](const std::string& name, const Gradient& g) { optimizer.collect(name, g); });
    optimizer.step();
  }
  return weights;
}

Classes classes_named(const TokenFile& file, const std::string& begin) {
  const auto& names = file.label_names();
  Classes found{names.size(), 0};
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!names[i].starts_with(begin)) continue;
    found.first = std::min(found.first, i);
    found.last = i + 1;
  }
  std::size_t between = 0;
  for (std::size_t i = found.first; i < found.last; ++i) between += names[i].starts_with(begin);
  if (found.last == 0 || between != found.last - found.first || between < 2) {
    throw std::invalid_argument(fmt::format(
        "--shift: {} of the classes of {} begin with '{}'; expected several, numbered one after "
        "the other; there are {}",
        between, file.path(), begin, names.empty() ? "no names in it" : join(names, ", ")));
  }
  return found;
}

Domain domain_of(const TokenFile& file, const TextModel& model, const Options& o) {
  Rows rows(file.size());
  std::iota(rows.begin(), rows.end(), std::size_t{0});
  Stream rng(0, Purpose::order, "texts");
  for (std::size_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[rng.below(i)]);
  const Classes classes = model.classes();
  std::erase_if(rows, [&](std::size_t row) {
    const auto label = static_cast<std::size_t>(file.labels()[row]);
    return file.labels()[row] < 0 || label < classes.first || label >= classes.last;
  });
  const std::size_t test = std::min(o.test, rows.size() / 4);
  const std::size_t validation = std::min(o.validation, rows.size() / 4);
  if (test == 0 || validation == 0) {
    throw DataError(fmt::format("{}: {} texts of the classes of one side are too few to split",
                                file.path(), rows.size()));
  }
  const auto first = rows.begin(), second = first + static_cast<std::ptrdiff_t>(test),
             third = second + static_cast<std::ptrdiff_t>(validation);
  return {classes, {third, rows.end()}, {second, third}, {first, second}, model};
}

TaskFamily prepare(const Spec& spec, const TaskContext& context) {
  auto o = read_options<Options>(spec);
  const std::string cache = cache_folder(context);
  if (o.model.empty()) o.model = cache_folder({}) + "/minilm-l6";
  const std::string path =
      context.data.empty() ? cache_folder({}) + "/glosses.safetensors" : context.data;
  if (!std::filesystem::exists(path)) {
    throw DataError(path + ": no such file; scripts/tokenize makes one (--data FILE)");
  }
  TokenFile file(path);
  if (!file.labelled()) throw DataError(path + ": it has no labels");
  file.require_labels(0, file.classes());
  const HfFolder folder(o.model);
  Classifier model = folder.classifier(o.pooling, file.classes());
  model.trunk.compute = context.compute;
  file.require_fits(model.trunk);

  const std::vector<std::string> sides = split(context.shift.empty() ? "all" : context.shift, ':');
  const bool all = sides.size() == 1 && sides[0] == "all";
  if (!all && (sides.size() != 2 || sides[0].empty() || sides[1].empty() || sides[0] == sides[1])) {
    throw std::invalid_argument("--shift is '" + context.shift +
                                "'; there are all, OLD:NEW (beginnings of the classes' names)");
  }
  const auto side = [&](std::size_t i) {
    const Classes classes = all ? Classes{0, file.classes()} : classes_named(file, sides[i]);
    return domain_of(file, TextModel(model, classes), o);
  };
  Domain old_classes = side(0), new_classes = side(all ? 0 : 1);
  auto data = std::make_shared<const Data>(
      Data{std::move(file), std::move(old_classes), std::move(new_classes)});

  TaskFamily family;
  const std::string hash = sha256_of_file(path);
  std::string base;
  for (const std::string& each : folder.files()) base += sha256_of_file(each);
  family.record = {{"texts", path},
                   {"sha256 of the texts", hash},
                   {"model", o.model},
                   {"sha256 of the model", base},
                   {"training texts", std::to_string(data->new_classes.train.size())},
                   {"validation texts", std::to_string(data->new_classes.validation.size())},
                   {"test texts", std::to_string(data->new_classes.test.size())},
                   {"start", o.start_seed > 0 ? fmt::format("shared, of seed {}", o.start_seed)
                                              : "of the seed"}};
  Weights given = folder.read(model.weights(), 1);
  if (all) {
    auto start = std::make_shared<const Weights>(std::move(given));
    family.make = [data, start, dropout = o.dropout](std::uint64_t) {
      return std::make_shared<Texts>(data, start, dropout);
    };
    return family;
  }
  const std::string key = fmt::format(
      "gradview texts 1; texts {}; model {}; classes {} of {}; pooling {}; dropout {}; held out {} "
      "{}; adam {} x {} at {}; real {}",
      hash, base, sides[0], data->file.classes(), static_cast<int>(o.pooling), o.dropout, o.test,
      o.validation, o.pretrain_steps, o.pretrain_batch, exact(o.pretrain_lr), sizeof(Real));
  auto starts =
      std::make_shared<Starts>([data, given = std::move(given), o, key, cache](std::uint64_t seed) {
        return cached_weights(cache, "texts", fmt::format("{}; seed {}", key, seed), given,
                              [&] { return adapted_in_full(*data, given, o, seed); });
      });
  family.make = [data, starts, o](std::uint64_t seed) {
    return std::make_shared<Texts>(data, starts->of(o.start_seed > 0 ? o.start_seed : seed),
                                   o.dropout);
  };
  return family;
}

}  // namespace

TaskKind texts_task() {
  return {"texts", "classes of texts, by an encoder from a checkpoint; MiniLM on WordNet's glosses",
          describe_options<Options>("texts"), prepare, /*bf16=*/true};
}

}  // namespace gradview
