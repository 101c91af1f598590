// The task 'bytes': its windows, its splits and its pre-trained start, in double.
#include "gradview/experiments/tasks/bytes.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <set>
#include <string>

#include "expect_error.hpp"
#include "gradview/core/error.hpp"
#include "gradview/core/rng.hpp"

namespace gradview {
namespace {

const std::string kTiny = "layers=1,heads=2,width=8,length=8,windows=20,pretrain_batch=8";

// A folder with two texts of five letters: the one counts up, the other down, with some noise.
class Bytes : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("bytes-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    write("old.txt", 1);
    write("new.txt", 4);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, std::size_t step) {
    std::ofstream file(folder_ / name);
    Stream noise(1, Purpose::test, name);
    std::size_t at = 0;
    for (std::size_t i = 0; i < 20000; ++i) {
      at = noise.below(10) == 0 ? noise.below(5) : (at + step) % 5;
      file << static_cast<char>('a' + at);
    }
  }
  std::shared_ptr<const ByteTask> make(const std::string& options, const std::string& shift = "",
                                       std::uint64_t seed = 1) const {
    const TaskContext context{folder_, folder_ / "cache", shift, Compute::real};
    return std::dynamic_pointer_cast<const ByteTask>(
        prepare_task(parse_spec("bytes:" + kTiny + options), context).make(seed));
  }

  std::filesystem::path folder_;
};

TEST(ByteWindows, GiveEachByteAndTheNext) {
  const std::string text = "abcdefghijk";
  const ByteWindows windows(text, 3);
  ASSERT_EQ(windows.size(), 3U);  // the last byte is a label only
  const std::vector<std::size_t> which = {2, 0};
  const auto [tokens, labels] = windows.batch(which);
  EXPECT_EQ(tokens.ids, (std::vector<std::int32_t>{'g', 'h', 'i', 'a', 'b', 'c'}));
  EXPECT_EQ(labels, (std::vector<std::int32_t>{'h', 'i', 'j', 'b', 'c', 'd'}));
  EXPECT_EQ(tokens.positions, (std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(tokens.sequences.size(), 2U);
  const ByteWindows some(text, 2, 2);  // of five
  ASSERT_EQ(some.size(), 2U);
  const std::vector<std::size_t> second = {1};
  EXPECT_EQ(some.batch(second).tokens.ids, (std::vector<std::int32_t>{'e', 'f'}));
  const auto [cut, same] = windows.batch(second, 1);
  EXPECT_EQ(cut.sequences.size(), 3U);
  EXPECT_EQ(cut.positions, (std::vector<std::int32_t>{0, 0, 0}));
  EXPECT_EQ(same, (std::vector<std::int32_t>{'e', 'f', 'g'}));
  expect_error<std::invalid_argument>("cannot be cut", [&] { windows.batch(second, 2); });
  expect_error<DataError>("fewer than a window", [] { ByteWindows("abc", 3); });
}

// Ninety percent follow from the byte before, so that the best loss is about 0.9 ln(1/0.92) +
// 0.1 ln(1/0.02) = 0.47; no knowledge of the text gives ln 5 = 1.61 at least.
TEST_F(Bytes, StartFromATransformerThatKnowsTheOldTextOnly) {
  for (const char* arch : {"llama", "gpt2"}) {
    const auto task = make(std::string(",pretrain_steps=150,pretrain_lr=1e-2,arch=") + arch);
    EXPECT_LT(task->evaluate(task->start(), Split::old).loss, 0.6) << arch;
    EXPECT_GT(task->evaluate(task->start(), Split::old).accuracy, 0.85) << arch;
    EXPECT_GT(task->evaluate(task->start(), Split::validation).loss, 1.61) << arch;
  }
}

TEST_F(Bytes, ShareOneStartUnlessToldOtherwise) {
  const std::string few = ",pretrain_steps=3";
  const auto start = [&](const std::string& options, std::uint64_t seed) {
    const auto task = make(few + options, "", seed);
    return task->start()["lm_head.weight"];
  };
  const Matrix first = start("", 1);
  EXPECT_EQ(start("", 2), first);
  EXPECT_EQ(start(",start_seed=0", 1), first);  // from the cache
  EXPECT_NE(start(",start_seed=0", 2), first);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "cache"), {}), 2);
}

TEST_F(Bytes, LossesByPositionHaveTheLossAsTheirMean) {
  for (const char* shift : {"text", "length:4"}) {
    const auto task = make(",pretrain_steps=3,group=8", shift);
    for (const Split split : {Split::validation, Split::test, Split::old}) {
      const std::vector<double> losses = task->losses(task->start(), split);
      const bool longer = shift[0] == 'l' && split != Split::old;
      ASSERT_EQ(losses.size(), longer ? 32U : 8U);
      const double mean =
          std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
      EXPECT_NEAR(mean, task->evaluate(task->start(), split).loss, 1e-12);
    }
    EXPECT_EQ(task->model().trunk.rope->factor, shift[0] == 'l' ? 4 : 1);
    EXPECT_EQ(*task->model().trunk.group, 8U);
    const std::vector<double> whole = task->losses(task->start(), Split::test);
    const std::vector<double> cut = task->losses(task->start(), Split::test, 4);
    for (std::size_t t = 0; t < whole.size(); ++t) {  // the first four bytes have no more to see
      EXPECT_EQ(std::abs(whole[t] - cut[t]) < 1e-12, t < 4) << t;
    }
  }
}

TEST_F(Bytes, CollectTheGradientsThatAreAskedFor) {
  const auto task = make(",pretrain_steps=3");
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  std::set<std::string> collected;
  const std::vector<std::size_t> batch = {0, task->examples() - 1};
  task->loss_and_gradients(
      task->start(), batch, {{name}, {}},
      [&](const std::string& which, const Gradient&) { collected.insert(which); });
  EXPECT_EQ(collected, std::set<std::string>{name});
}

TEST_F(Bytes, SayWhatIsWrong) {
  expect_error<std::invalid_argument>("heads", [&] { make(",kv_heads=3"); });
  expect_error<std::invalid_argument>("there are text, length:FACTOR",
                                      [&] { make("", "rotate:90"); });
  expect_error<std::invalid_argument>("arch=llama", [&] { make(",arch=gpt2", "length:4"); });
  std::filesystem::remove(folder_ / "new.txt");
  expect_error<DataError>("scripts/fetch-texts", [&] { make(""); });
  EXPECT_NO_THROW(make(",pretrain_steps=1", "length:2"));
}

}  // namespace
}  // namespace gradview
