// Adaptation: which projector sits on which weight. A plan is made from names and shapes, then
// applied.
//
//     lora:rank=8@query|value           the projector on the matrices that a regular expression finds
//     lora:rank=8@query|value&norm      and all that another one finds trained in full beside it
//     bitfit@norm                       of the vectors, these
//     lora:rank=8@query|value%nf4       with those matrices in 4 bits (nf4, int4), ΔW beside them
//     full@classifier%int4:dense        and with others than the projector's
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

struct InFourBits {
  FourBit type;
  std::string target;  // a regular expression, searched in the names of matrices
};

struct Placed {  // what a curve's method says
  Spec projector;
  std::string target, also;               // regular expressions; empty: as the call has them
  std::optional<InFourBits> frozen = {};  // target empty: the projector's
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
  std::optional<InFourBits> frozen = {};
};

// What a run starts with: `weights`, some of them in 4 bits.
Weights started(const Adaptation& adaptation, const Weights& weights);

struct Planned {
  std::string name;
  Shape shape;
  std::optional<Spec> projector;  // none: frozen
  bool quantised = false;         // kept in 4 bits
  bool vector = false;
  bool before_softmax = false;
  std::size_t trained = 0;  // numbers
  std::string note;
};

// Throws std::invalid_argument where a pattern is malformed or matches nothing, or a rank fits no
// matrix.
std::vector<Planned> plan(const Adaptation& adaptation, const Weights& weights,
                          const std::vector<std::string>& before_softmax);
// dropout: of the projectors' inputs, where they are not `full`; std::invalid_argument where one has no
// Projector::update. The optimizer must outlive the weights.
void apply(const std::vector<Planned>& plan, Weights& weights, std::uint64_t seed,
           Optimizer& optimizer, double dropout = 0);

// The rank that a spec asks for; 0 where its method has none, or none that a matrix caps.
std::size_t asked_rank(const Spec& spec);
std::size_t trained_numbers(const std::vector<Planned>& plan);
std::string describe(
    const std::vector<Planned>& plan);  // the table of adapted and frozen parameters

}  // namespace gradview
