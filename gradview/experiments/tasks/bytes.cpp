#include "gradview/experiments/tasks/bytes.hpp"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "gradview/core/error.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/tasks/pretrained.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/io/files.hpp"
#include "gradview/models/architectures.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr std::size_t kBytes = 256;
constexpr std::size_t kRows = 2048;  // of one evaluation's pass, about

struct Shift {
  std::size_t factor = 1;  // of the length; 1: another text
};

Shift read_shift(const std::string& text, ByteArchitecture arch) {
  const std::vector<std::string> words = split(text.empty() ? "text" : text, ':');
  if (words.size() == 1 && words[0] == "text") return {};
  if (words.size() == 2 && words[0] == "length") {
    if (arch != ByteArchitecture::llama) {
      throw std::invalid_argument("--shift length is for arch=llama, whose positions are rotary");
    }
    return {checked_count("--shift length", words[1], {.least = 2, .most = 64})};
  }
  throw std::invalid_argument("--shift is '" + text + "'; there are text, length:FACTOR" +
                              did_you_mean(words[0], {"text", "length"}));
}

std::string read_bytes(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  try {
    return read_text(path);
  } catch (const DataError& error) {
    throw DataError(std::string(error.what()) +
                    "; scripts/fetch-texts makes old.txt and new.txt, or give a folder with both "
                    "with --data DIR");
  }
}

std::string_view piece(std::string_view text, double from, double to) {
  const auto at = [&](double share) {
    return static_cast<std::size_t>(share * static_cast<double>(text.size()));
  };
  return text.substr(at(from), at(to) - at(from));
}

// Deviation 1/√n, that of what adds to the residual smaller by √(2 layers); norms 1, biases 0.
Weights initial(const LanguageModel& model, std::uint64_t seed) {
  Weights weights;
  const auto ends = [](const std::string& name, std::string_view end) {
    return name.ends_with(std::string(end) + ".weight");
  };
  for (const WeightSpec& spec : model.weights()) {
    Matrix value = zeros(spec.shape);
    if (spec.stored != Stored::vector) {
      double deviation = 1 / std::sqrt(static_cast<double>(spec.shape.cols));
      if (ends(spec.name, "o_proj") || ends(spec.name, "down_proj") || ends(spec.name, "c_proj")) {
        deviation /= std::sqrt(2.0 * static_cast<double>(model.trunk.layers));
      }
      value = normal(spec.shape, deviation, Stream(seed, Purpose::model, spec.name));
    } else if (spec.name.ends_with(".weight")) {
      value.fill(1);
    }
    weights.add(spec.name, std::move(value));
  }
  return weights;
}

Names every_name(const LanguageModel& model) {
  Names names;
  for (const WeightSpec& spec : model.weights()) names.insert(spec.name);
  return names;
}

Weights pretrained(const ByteOptions& o, const std::string& text, std::uint64_t seed) {
  const LanguageModel model = o.model();
  Weights weights = initial(model, seed);
  Optimizer optimizer(
      {.spec = make_optimizer_spec(parse_spec("adam:beta2=0.99")),
       .lr = o.pretrain_lr,
       .schedule = make_schedule(o.pretrain_steps > 100 ? "cosine:warmup=50" : "cosine"),
       .steps = o.pretrain_steps,
       .seed = seed,
       .clip = 1});
  for (auto& [name, value] : weights) {
    optimizer.add(name, value, make_projector({"full", {}}, Site{name, value}));
  }
  const ByteWindows windows(piece(text, 0, 0.9), o.length);
  BatchOrder order(seed, windows.size());
  const Training all{every_name(model), {}};
  for (std::size_t step = 0; step < o.pretrain_steps; ++step) {
    throw_if_stop_requested();
    const auto [tokens, labels] = windows.batch(order.next(o.pretrain_batch));
    model.loss_and_gradients(
        weights, tokens, labels, all,
        [&](const std::string& name, const Gradient& g) { optimizer.collect(name, g); });
    optimizer.step();
  }
  return weights;
}

TaskFamily prepare(const Spec& spec, const TaskContext& context) {
  const auto o = read_options<ByteOptions>(spec);
  const Shift shift = read_shift(context.shift, o.arch);
  const std::string cache = cache_folder(context);
  const std::string folder = context.data.empty() ? cache_folder({}) + "/texts" : context.data;
  auto data = std::make_shared<ByteData>();
  data->old_text = read_bytes(folder, "old.txt");
  if (shift.factor == 1) data->new_text = read_bytes(folder, "new.txt");
  const LanguageModel old_model = o.model();
  data->model = old_model;
  Transformer& trunk = data->model.trunk;
  if (shift.factor > 1) stretch(trunk, static_cast<double>(shift.factor));
  if (o.group > 0) trunk.group = o.group;
  const std::string_view text = shift.factor == 1 ? data->new_text : data->old_text;
  const std::size_t length = trunk.positions;
  data->windows = {{piece(text, 0, 0.9), length},
                   {piece(text, 0.9, 0.95), length, o.windows},
                   {piece(text, 0.95, 1), length, o.windows},
                   {piece(data->old_text, 0.9, 0.95), o.length, o.windows}};

  TaskFamily family;
  const std::string hash = sha256_of_file(folder + "/old.txt");
  family.record.emplace_back("sha256 of old.txt", hash);
  if (shift.factor == 1) {
    family.record.emplace_back("sha256 of new.txt", sha256_of_file(folder + "/new.txt"));
  }
  family.record.emplace_back("data", folder);
  family.record.emplace_back("training windows", std::to_string(data->windows[0].size()));
  family.record.emplace_back("windows of an evaluation", std::to_string(data->windows[1].size()));
  family.record.emplace_back(
      "start", o.start_seed > 0 ? fmt::format("shared, of seed {}", o.start_seed) : "of the seed");
  const Transformer& t = old_model.trunk;
  const std::string key = fmt::format(
      "gradview bytes 1; text {}; arch {}; layers {}; heads {}/{}; width {}; hidden {}; length {}; "
      "tied {}; adam {} x {} at {}; real {}",
      hash, static_cast<int>(o.arch), t.layers, t.heads, t.kv_heads, t.width, t.hidden, o.length,
      o.tied, o.pretrain_steps, o.pretrain_batch, exact(o.pretrain_lr), sizeof(Real));
  auto starts = std::make_shared<Starts>([data, o, key, cache](std::uint64_t seed) {
    return cached_weights(cache, "bytes", fmt::format("{}; seed {}", key, seed),
                          initial(o.model(), seed),
                          [&] { return pretrained(o, data->old_text, seed); });
  });
  family.make = [data, starts, only = o.start_seed](std::uint64_t seed) {
    return std::make_shared<ByteTask>(data, starts->of(only > 0 ? only : seed));
  };
  return family;
}

}  // namespace

void ByteOptions::declare(OptionSet& o) {
  const Range some{.least = 1, .most = 1 << 20};
  o.choice("arch", arch, {{"llama", ByteArchitecture::llama}, {"gpt2", ByteArchitecture::gpt2}},
           "llama: q, k, v apart, rotary positions; gpt2: q, k, v in one matrix, a table of them");
  o.count("layers", layers, some, "of attention and feed-forward");
  o.count("heads", heads, some, "of attention");
  o.count("kv_heads", kv_heads, {.most = 1 << 20}, "of keys and values, llama's; 0: as heads");
  o.count("width", width, some, "of the hidden states");
  o.count("hidden", hidden, {.most = 1 << 20}, "width of the feed-forward; 0: 8/3 or 4 times");
  o.count("length", length, {.least = 2, .most = 1 << 20},
          "of the windows that are pre-trained on");
  o.count("group", group, {.most = 1 << 20},
          "of shifted sparse attention in the adaptation; 0: full attention");
  o.flag("tied", tied, "the head is the table of bytes");
  o.count("pretrain_steps", pretrain_steps, {.least = 1}, "steps of Adam on the old text");
  o.count("pretrain_batch", pretrain_batch, {.least = 1}, "windows in one of them");
  o.number("pretrain_lr", pretrain_lr, {.least = 0, .open_below = true}, "its rate, cosine to 0");
  o.count("start_seed", start_seed, {}, "of the start that all seeds share; 0: each its own");
  o.count("windows", windows, {.least = 1}, "that an evaluation is over, spread over its part");
}

LanguageModel ByteOptions::model() const {
  LanguageModel made{arch == ByteArchitecture::llama ? llama() : gpt2(), tied};
  Transformer& t = made.trunk;
  const bool rotary = t.rope.has_value();
  const std::size_t kv = kv_heads > 0 ? kv_heads : heads;
  if (width % heads != 0 || heads % kv != 0 || (rotary && width / heads % 2 != 0) ||
      (!rotary && kv != heads)) {
    throw std::invalid_argument(
        fmt::format("bytes: width {} for {} heads and {} of keys and values; expected multiples, "
                    "heads of even width, and as many of each in gpt2",
                    width, heads, kv));
  }
  t.vocabulary = kBytes;
  t.positions = length;
  t.width = width;
  t.hidden = hidden > 0 ? hidden : rotary ? (8 * width / 3 + 15) / 16 * 16 : 4 * width;
  t.layers = layers;
  t.heads = heads;
  t.kv_heads = kv;
  t.head_width = width / heads;
  return made;
}

ByteWindows::ByteWindows(std::string_view piece, std::size_t length, std::size_t most)
    : piece_(piece), length_(length), step_(length) {
  count_ = piece.empty() ? 0 : (piece.size() - 1) / length;
  if (count_ == 0) {
    throw DataError(fmt::format("a part of the text has {} bytes, fewer than a window of {}",
                                piece.size(), length));
  }
  if (most > 0 && most < count_) {
    step_ = count_ / most * length;
    count_ = most;
  }
}

ByteWindows::Batch ByteWindows::batch(std::span<const std::size_t> which, std::size_t cut) const {
  if (cut == 0 || length_ % cut != 0) {
    throw std::invalid_argument(
        fmt::format("windows of {} bytes cannot be cut into sequences of {}", length_, cut));
  }
  Batch made;
  std::vector<std::int32_t> ids;
  for (const std::size_t i : which) {
    const std::string_view window = piece_.substr(i * step_, length_ + 1);
    for (std::size_t t = 0; t < length_; ++t) {
      ids.push_back(static_cast<unsigned char>(window[t]));
      made.labels.push_back(static_cast<unsigned char>(window[t + 1]));
    }
  }
  made.tokens = pack(ids, std::vector<std::uint8_t>(ids.size(), 1), cut);
  return made;
}

Score ByteTask::loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                                   const Training& training, const Collect& collect) const {
  const auto [tokens, labels] = data_->windows.front().batch(batch);
  return data_->model.loss_and_gradients(weights, tokens, labels, training, collect);
}

Score ByteTask::evaluate(const Weights& weights, Split split) const {
  const ByteWindows& windows = of(split);
  std::vector<std::size_t> all(windows.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  const std::size_t chunk = std::max<std::size_t>(1, kRows / windows.length());
  Score mean;
  for (std::size_t first = 0; first < all.size(); first += chunk) {
    const std::size_t count = std::min(chunk, all.size() - first);
    const auto [tokens, labels] = windows.batch(std::span(all).subspan(first, count));
    const Score score = data_->model.loss(weights, tokens, labels);
    const double share = static_cast<double>(count) / static_cast<double>(all.size());
    mean.loss += share * score.loss;
    mean.accuracy += share * score.accuracy;
  }
  return mean;
}

std::vector<double> ByteTask::losses(const Weights& weights, Split split, std::size_t cut,
                                     const LanguageModel& by) const {
  const ByteWindows& windows = of(split);
  std::vector<double> sums(windows.length());
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const auto [tokens, labels] = windows.batch(std::span(&i, 1), cut > 0 ? cut : windows.length());
    const Matrix z = by.logits(weights, tokens);
    for (std::size_t t = 0; t < sums.size(); ++t) {
      const Real* at = z.data() + t * kBytes;
      const double largest = *std::max_element(at, at + kBytes);
      double sum = 0;
      for (std::size_t c = 0; c < kBytes; ++c) sum += std::exp(at[c] - largest);
      sums[t] += largest + std::log(sum) - at[labels[t]];
    }
  }
  for (double& sum : sums) sum /= static_cast<double>(windows.size());
  return sums;
}

std::vector<std::string> ByteTask::before_softmax() const {
  if (data_->model.tied) return {};
  return {data_->model.head_weight()};
}

TaskKind bytes_task() {
  return {"bytes", "next bytes of a text, by a transformer pre-trained on another",
          describe_options<ByteOptions>("bytes"), prepare};
}

}  // namespace gradview
