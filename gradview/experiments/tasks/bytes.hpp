// bytes: a small causal transformer that knows one text learns another, or the same at greater length.
//
//     L = −1/N Σ_t log p(b_{t+1} | b_{t−k} … b_t),  k < length      in nats; bits per byte are L / ln 2
//
// A token is a byte (V = 256). The model is pre-trained here on old.txt and adapted to new.txt
// (shift text), or to old.txt in windows F times as long (shift length:F) with its rotary positions
// divided by F. A text's first 90 % are for training, the next 5 % for validation, the last 5 % for
// the test; `old` is old.txt's validation part in windows of the old length. Weights have the names
// of checkpoints (models/architectures.hpp). All seeds share one pre-trained start, which is what
// costs, unless start_seed=0: then spread over seeds is that of data order and frames alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gradview/experiments/task.hpp"
#include "gradview/models/language_model.hpp"

namespace gradview {

enum class ByteArchitecture { llama, gpt2 };

struct ByteOptions {
  ByteArchitecture arch = ByteArchitecture::llama;
  std::size_t layers = 4, heads = 4, kv_heads = 0, width = 128, hidden = 0, length = 128, group = 0;
  bool tied = false;
  std::size_t pretrain_steps = 1000, pretrain_batch = 16, start_seed = 1, windows = 96;
  double pretrain_lr = 3e-3;
  void declare(OptionSet& o);
  LanguageModel model() const;  // as pre-trained; std::invalid_argument on sizes that do not fit
};

// Windows of one length in a piece of a text: as many bytes, and for each the one after it.
class ByteWindows {
 public:
  // Of one split; text must outlive it. `most`: so many, spread evenly; 0: one after the other.
  ByteWindows(std::string_view piece, std::size_t length, std::size_t most = 0);
  std::size_t size() const { return count_; }
  std::size_t length() const { return length_; }
  struct Batch {
    Tokens tokens;
    std::vector<std::int32_t> labels;  // of every row
  };
  Batch batch(std::span<const std::size_t> which) const { return batch(which, length_); }
  Batch batch(std::span<const std::size_t> which, std::size_t cut) const;

 private:
  std::string_view piece_;
  std::size_t length_, count_, step_;
};

struct ByteData {
  std::string old_text, new_text;
  LanguageModel model;               // adapted; its evaluation has full attention
  std::vector<ByteWindows> windows;  // training, and by number of their Split
};

class ByteTask final : public Task {
 public:
  ByteTask(std::shared_ptr<const ByteData> data, std::shared_ptr<const Weights> start)
      : data_(std::move(data)), start_(std::move(start)) {}
  const Weights& start() const override { return *start_; }
  std::size_t examples() const override { return data_->windows.front().size(); }
  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training& training, const Collect& collect) const override;
  Score evaluate(const Weights& weights, Split split) const override;
  std::vector<std::string> before_softmax() const override;
  // The mean loss at every position of the split's windows, which are whole or cut into sequences of
  // `cut` bytes, each from position 0 on; by another model where one is given.
  std::vector<double> losses(const Weights& weights, Split split, std::size_t cut = 0) const {
    return losses(weights, split, cut, model());
  }
  std::vector<double> losses(const Weights& weights, Split split, std::size_t cut,
                             const LanguageModel& by) const;
  const LanguageModel& model() const { return data_->model; }

 private:
  const ByteWindows& of(Split split) const {
    return data_->windows[1 + static_cast<std::size_t>(split)];
  }
  std::shared_ptr<const ByteData> data_;
  std::shared_ptr<const Weights> start_;
};

TaskKind bytes_task();

}  // namespace gradview
