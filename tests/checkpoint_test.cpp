// Checkpoints: what comes back, and that nothing else is taken for one.
#include "gradview/io/checkpoint.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "expect_error.hpp"
#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace {

struct Held {
  std::map<std::string, Matrix> values;
  void visit(const StateVisit& visit) {
    for (auto& [name, value] : values) visit(name, value);
  }
  State state() {
    return [this](const StateVisit& to) { visit(to); };
  }
};

class Path {
 public:
  Path() : path_((std::filesystem::temp_directory_path() / "gradview-checkpoint-XXXXXX").string()) {
    close(mkstemp(path_.data()));
  }
  Path(const Path&) = delete;
  ~Path() { std::filesystem::remove(path_); }
  operator const std::string&() const { return path_; }

 private:
  std::string path_;
};

Held some() {
  Held held;
  held.values["a.u"] = normal({3, 2}, 1, Stream(1, Purpose::model, "a"));
  held.values["b"] = normal({1, 5}, 1, Stream(2, Purpose::model, "b"));
  held.values["empty"] = zeros({0, 4});
  return held;
}

TEST(Checkpoint, ReturnsEveryBit) {
  const Path path;
  Held held = some();
  write_checkpoint(path, held.state(), {{"step", "17"}, {"word", "ü"}});
  Held back = some();
  for (auto& [name, value] : back.values) value = zeros({1, 1});
  const CheckpointReader reader(path);
  EXPECT_EQ(reader.number("step"), 17);
  EXPECT_EQ(reader.word("word"), "ü");
  reader.restore(back.state());
  for (const auto& [name, value] : held.values) {
    ASSERT_EQ(shape_of(back.values[name]), shape_of(value)) << name;
    EXPECT_TRUE(std::equal(value.begin(), value.end(), back.values[name].begin())) << name;
  }
}

TEST(Checkpoint, NamesWhatIsTooFewOrTooMany) {
  const Path path;
  Held held = some();
  write_checkpoint(path, held.state(), {});
  Held more = some();
  more.values["c"] = zeros({1, 1});
  const CheckpointReader reader(path);
  expect_error<CheckpointError>("no state 'c'", [&] { reader.restore(more.state()); });
  held.values.erase("b");
  expect_error<CheckpointError>("3 matrices, expected 2", [&] { reader.restore(held.state()); });
  expect_error<CheckpointError>("no word 'step'", [&] { reader.word("step"); });
}

// Whatever byte is turned, and wherever the file is cut, it is not the state that was written.
TEST(Checkpoint, NoticesEveryChangedByte) {
  const Path path;
  Held held = some();
  write_checkpoint(path, held.state(), {{"step", "17"}});
  const std::string whole = read_text(path);
  std::size_t noticed = 0, same = 0;
  const auto try_out = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
    Held back = some();
    try {
      CheckpointReader(path).restore(back.state());
      for (const auto& [name, value] : held.values) {
        if (!std::equal(value.begin(), value.end(), back.values[name].begin())) return;
      }
      ++same;  // a space of the header, say: the state is right all the same
    } catch (const CheckpointError&) {
      ++noticed;
    }
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string text = whole;
    text[i] = static_cast<char>(text[i] ^ (1 << i % 8));
    try_out(text);
  }
  for (std::size_t size = 0; size < whole.size(); ++size) try_out(whole.substr(0, size));
  EXPECT_EQ(noticed + same, 2 * whole.size());
  EXPECT_LT(same, std::size_t{16});
}

TEST(Checkpoint, ReplacesTheOldOneWhole) {
  const Path path;
  Held held = some();
  write_checkpoint(path, held.state(), {{"step", "1"}});
  held.values["b"] = zeros({1, 5});
  write_checkpoint(path, held.state(), {{"step", "2"}});
  EXPECT_EQ(CheckpointReader(path).number("step"), 2);
  expect_error<IoError>("nowhere", [&] { write_checkpoint("/nowhere/x", held.state(), {}); });
  expect_error<CheckpointError>("nowhere", [&] { CheckpointReader("/nowhere/x"); });
}

}  // namespace
}  // namespace gradview
