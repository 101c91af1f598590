// Adaptation: which projector sits on which weight. A plan is made from names and shapes, then
// applied.
//
//     lora:rank=8@query|value           the projector on the matrices that a regular expression finds
//     lora:rank=8@query|value&norm      and all that another one finds trained in full beside it
//     bitfit@norm                       of the vectors, these
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gradview/experiments/task.hpp"
#include "gradview/optim/optimizer.hpp"

namespace gradview {

struct Override {
  std::string pattern;  // a regular expression, searched in the name of a matrix
  std::vector<std::pair<std::string, std::string>> options;
};

struct Placed {  // what a curve's method says
  Spec projector;
  std::string target, also;  // regular expressions; empty: as the call has them
};
Placed parse_placed(const std::string& text);  // std::invalid_argument

struct Adaptation {
  Spec projector;
  std::string target = ".";            // a regular expression, searched in the names of matrices
  std::vector<std::string> also = {};  // further parameters, vectors too, trained under full
  std::vector<Override> overrides;
  bool train_rest = false;    // matrices outside the target: under full, or frozen
  bool train_biases = false;  // vectors: under full, or frozen
  std::size_t steps = 0;      // of the run, for methods with phases; 0: not known
};

struct Planned {
  std::string name;
  Shape shape;
  std::optional<Spec> projector;  // none: frozen
  bool vector = false;
  bool before_softmax = false;
  std::size_t trained = 0;  // numbers
  std::string note;
};

// Throws std::invalid_argument where a pattern is malformed or matches nothing, or a rank fits no
// matrix.
std::vector<Planned> plan(const Adaptation& adaptation, const Weights& weights,
                          const std::vector<std::string>& before_softmax);
void apply(const std::vector<Planned>& plan, Weights& weights, std::uint64_t seed,
           Optimizer& optimizer);

// The rank that a spec asks for; 0 where its method has none, or none that a matrix caps.
std::size_t asked_rank(const Spec& spec);
std::size_t trained_numbers(const std::vector<Planned>& plan);
std::string describe(
    const std::vector<Planned>& plan);  // the table of adapted and frozen parameters

}  // namespace gradview
