// Writing PEFT's adapters.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/io/files.hpp"
#include "gradview/io/peft_format.hpp"
#include "gradview/io/safetensors.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The most frequent number under `key`, the others in the pattern.
void set_numbers(json& config, const char* key, const char* pattern, const Adapter& adapter,
                 double (*number)(const Adapter::Module&)) {
  std::map<double, std::size_t> counts;
  for (const Adapter::Module& m : adapter.modules) ++counts[number(m)];
  const auto common =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
        return a.second < b.second;
      })->first;
  const auto tidy = [](double x) {
    return x == std::round(x) ? json(static_cast<std::int64_t>(x)) : json(x);
  };
  config[key] = tidy(common);
  json others = json::object();
  for (const Adapter::Module& m : adapter.modules) {
    if (number(m) != common) others[m.path] = tidy(number(m));
  }
  if (*pattern) config[pattern] = others;
  if (!*pattern && !others.empty()) {
    throw std::invalid_argument(std::string("PEFT's ") + adapter.method + " has one '" + key +
                                "' for all modules");
  }
}

// The rows (or columns) of w1 in PEFT: `factor` where it divides, else the largest divisor up to it
// and to the root; −1: up to the root.
std::size_t left_size(std::size_t size, std::int64_t factor) {
  const auto most = factor < 0 ? size : static_cast<std::size_t>(factor);
  if (factor > 0 && size % most == 0) return most;
  std::size_t best = 1;
  for (std::size_t d = 1; d * d <= size && d <= most; ++d) best = size % d == 0 ? d : best;
  return best;
}

void set_kronecker(json& config, const Adapter& adapter,
                   const std::map<std::string, peft::Place>& places) {
  bool both = false;
  std::vector<std::pair<Shape, Shape>> shapes;  // of w1 and W
  std::set<std::int64_t> factors = {-1};
  for (const Adapter::Module& m : adapter.modules) {
    const bool split = m.factors.contains("w1_a");
    both |= split;
    const Shape w1{m.factors.at(split ? "w1_a" : "w1").shape()[0],
                   m.factors.at(split ? "w1_b" : "w1").shape()[1]};
    shapes.emplace_back(w1, places.at(m.path).shape);
    factors.insert(static_cast<std::int64_t>(w1.rows));
    factors.insert(static_cast<std::int64_t>(w1.cols));
  }
  for (const std::int64_t factor : factors) {
    const bool fits = std::all_of(shapes.begin(), shapes.end(), [&](const auto& pair) {
      return pair.first ==
             Shape{left_size(pair.second.rows, factor), left_size(pair.second.cols, factor)};
    });
    if (!fits) continue;
    config["decompose_both"] = both;
    config["decompose_factor"] = factor;
    return;
  }
  throw std::invalid_argument("write_peft: no decompose_factor gives the shapes of these w1");
}

// The frames that all modules of vera share: the largest, of which every u and v must be a part. Ours
// has v scaled by its own width, so a v may be a multiple; d then takes the rest.
struct Frames {
  Matrix u, v;
  std::vector<Real> ratios;  // of each module's v to the part
};

Frames shared_frames(const Adapter& adapter) {
  Frames frames;
  for (const Adapter::Module& m : adapter.modules) {
    const Matrix &u = m.factors.at("u"), &v = m.factors.at("v");
    if (u.size() > frames.u.size()) frames.u = u;
    if (v.size() > frames.v.size()) frames.v = v;
  }
  const auto close = [](const Matrix& a, const Matrix& b) {
    return squared_norm(difference(a, b)) <= 1e-10 * squared_norm(b);
  };
  for (const Adapter::Module& m : adapter.modules) {
    const Matrix& u = m.factors.at("u");
    Matrix v = m.factors.at("v");
    const bool same = u.shape()[1] == frames.u.shape()[1] && v.shape()[0] == frames.v.shape()[0];
    if (same) {
      const Matrix part = columns(frames.v, 0, v.shape()[1]);
      frames.ratios.push_back(static_cast<Real>(std::sqrt(squared_norm(v) / squared_norm(part))));
      scale(v, 1 / static_cast<double>(frames.ratios.back()));
      if (close(u, rows(frames.u, 0, u.shape()[0])) && close(v, part)) continue;
    }
    throw std::invalid_argument("write_peft: PEFT's vera has the same frames everywhere, and " +
                                m.path + " has others");
  }
  return frames;
}

struct Prepared {
  SafetensorsWriter::Shapes shapes;
  std::vector<Matrix> values;
  std::string config;
};

Prepared prepared(const Adapter& adapter, const std::vector<WeightSpec>& specs) {
  const peft::Tuner& tuner = peft::tuner_of(adapter.method);
  const std::map<std::string, peft::Place> places = peft::places_of(specs);
  if (adapter.modules.empty()) throw std::invalid_argument("write_peft: there is no module");
  bool turned = false;
  json targets = json::array(), saved = json::array();
  SafetensorsWriter::Shapes shapes;
  std::vector<Matrix> values;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape, Matrix value) {
    shapes.emplace_back(std::string(peft::prefix) + name, std::move(shape));
    values.push_back(std::move(value));
  };
  Frames frames;
  if (adapter.method == "vera") {
    frames = shared_frames(adapter);
    for (const bool left : {true, false}) {
      const Matrix& frame = left ? frames.u : frames.v;
      shapes.emplace_back(peft::vera_frames[left ? 0 : 1],
                          std::vector{frame.shape()[0], frame.shape()[1]});
      values.push_back(frame);
    }
  }
  for (const Adapter::Module& m : adapter.modules) {
    const auto place = places.find(m.path);
    if (place == places.end()) {
      throw std::invalid_argument("write_peft: the model has no module '" + m.path + "'");
    }
    if ((place->second.embedding && tuner.linear_only) ||
        (place->second.transposed && !tuner.turned)) {
      throw std::invalid_argument("write_peft: PEFT's " + adapter.method + " cannot sit on " +
                                  m.path);
    }
    targets.push_back(m.path);
    turned |= place->second.transposed;
    for (const peft::Forms& forms : peft::sides_of(tuner, place->second)) {
      for (const peft::Parts& form : forms) {
        for (const peft::Part& part : form) {
          const auto found = m.factors.find(part.field);
          if (found == m.factors.end()) continue;
          Matrix value = part.transposed ? transpose(found->second) : found->second;
          std::vector<std::size_t> shape = {value.shape()[0], value.shape()[1]};
          if (part.vector) shape = {value.size()};
          if (adapter.method == "vera" && std::string(part.field) == "d") {
            scale(value, frames.ratios[targets.size() - 1]);
          }
          add(m.path + "." + part.suffix, std::move(shape), std::move(value));
        }
      }
    }
  }
  const auto whole = [&](const std::string& name, const Matrix& value, const std::string& key) {
    const auto spec = std::find_if(specs.begin(), specs.end(),
                                   [&](const WeightSpec& s) { return s.name == name; });
    if (spec == specs.end()) {
      throw std::invalid_argument("write_peft: the model has no weight '" + name + "'");
    }
    require_shape("write_peft", name.c_str(), shape_of(value), spec->shape);
    Matrix kept = spec->stored == Stored::transposed ? transpose(value) : value;
    std::vector<std::size_t> shape = {kept.shape()[0], kept.shape()[1]};
    if (spec->stored == Stored::vector) shape = {kept.size()};
    add(key, std::move(shape), std::move(kept));
  };
  std::set<std::string> saved_modules;
  for (const auto& [name, value] : adapter.saved) {
    whole(name, value, name);
    saved_modules.insert(name.substr(0, name.rfind('.')));
  }
  for (const std::string& module : saved_modules) saved.push_back(module);
  for (const auto& [name, value] : adapter.biases) {
    const std::string module = name.substr(0, name.rfind('.'));
    const bool wrapped = std::any_of(adapter.modules.begin(), adapter.modules.end(),
                                     [&](const Adapter::Module& m) { return m.path == module; });
    whole(name, value, wrapped ? module + ".base_layer.bias" : name);
  }
  json config = {{"peft_type", tuner.type}, {"target_modules", targets},
                 {"inference_mode", true},  {"base_model_name_or_path", nullptr},
                 {"task_type", nullptr},    {"modules_to_save", nullptr}};
  if (!adapter.base.empty()) config["base_model_name_or_path"] = adapter.base;
  if (!adapter.task_type.empty()) config["task_type"] = adapter.task_type;
  if (!saved.empty()) config["modules_to_save"] = saved;
  const bool patterned = adapter.method != "adalora";
  const bool vera = adapter.method == "vera";
  if (vera) config["save_projection"] = true;
  set_numbers(config, tuner.rank, patterned && !vera ? "rank_pattern" : "", adapter,
              [](const Adapter::Module& m) { return static_cast<double>(m.rank); });
  if (tuner.alpha)
    set_numbers(config, tuner.alpha, patterned ? "alpha_pattern" : "", adapter,
                [](const Adapter::Module& m) { return m.alpha; });
  if (std::string(tuner.type) == "LORA") {
    config["use_rslora"] = adapter.rslora;
    config["use_dora"] = adapter.method == "dora";
    config["lora_dropout"] = adapter.dropout;
    config["init_lora_weights"] = true;
  }
  if (tuner.turned) {
    config["fan_in_fan_out"] = turned;
    config["bias"] = adapter.bias;
  }
  if (adapter.method == "adalora") {
    config["target_r"] = config["init_r"];
    config["total_step"] = config["deltaT"] = 1;
    config["tinit"] = config["tfinal"] = 0;
  }
  if (adapter.method == "lokr") set_kronecker(config, adapter, places);
  return {std::move(shapes), std::move(values), config.dump(2) + "\n"};
}

}  // namespace

void check_peft(const Adapter& adapter, const std::vector<WeightSpec>& specs) {
  prepared(adapter, specs);
}

void write_peft(const std::string& folder, const Adapter& adapter,
                const std::vector<WeightSpec>& specs) {
  const auto [shapes, values, text] = prepared(adapter, specs);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw IoError(folder + ": cannot be made: " + error.message());
  SafetensorsWriter writer(folder + "/" + peft::tensors_file, shapes);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    writer.write(shapes[i].first, 0, values[i].data(), values[i].size());
  }
  write_atomically(folder + "/" + peft::config_file, text);
  writer.commit();
}

}  // namespace gradview
