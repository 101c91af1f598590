// What a step costs by counting: floating-point operations, and the bytes that must move.
//
// For one layer of m x n over N tokens. Flops: a multiplication, an addition, a root count one each;
// elementwise work of the network (relu, residuals) is left out. Bytes: what a part of the step has
// to read and write at least, every operand once, whatever a kernel keeps in registers or caches;
// thin intermediates (N x r) and directions that go straight from the rule into the weight are not
// counted.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "gradview/models/linear_blocks.hpp"

namespace gradview {

enum class Part { forward, delta, weight_gradient, project, rule, update };
constexpr std::array<const char*, 6> kParts{"forward", "delta", "weight_gradient",
                                            "project", "rule",  "update"};

struct Work {
  double flops = 0, bytes = 0;
  Work& operator+=(const Work& more) {
    flops += more.flops;
    bytes += more.bytes;
    return *this;
  }
};
using WorkOfParts = std::array<Work, kParts.size()>;

struct Layer {
  double tokens, m, n;
  double rank;  // at most min(m, n)
};

Layer layer(const LinearBlocks& model, std::size_t weight, std::size_t tokens, std::size_t rank);

Work forward_work(const Layer& layer);          // x Wᵀ     2Nmn
Work delta_work(const Layer& layer);            // δ W      2Nmn
Work weight_gradient_work(const Layer& layer);  // δᵀ x     2Nmn

// A method as the experiment runs and counts it.
struct Priced {
  std::string name, projector, optimizer;
  // Whose weight gradient is formed: nobody's, by the projector itself, or before it.
  enum class Forms { never, projecting, before };
  Forms (*forms)(const Layer&);
  Work (*project)(const Layer&);
  Work (*update)(const Layer&);
  double rule_flops, rule_numbers;  // per trained number: operations, numbers read and written
  std::size_t refresh_every = 0;    // where the subspace is chosen from G: steps between choices
  Work (*refresh)(const Layer&) = nullptr;
};
std::vector<Priced> priced_methods(std::size_t rank, std::size_t refresh_every);

// Which weights are trained, in the order of the model; the pass back ends at the first.
struct Scenario {
  std::string name;
  std::vector<std::string> trained;
};
std::vector<Scenario> scenarios(const LinearBlocks& model, std::size_t last);

struct StepWork {
  WorkOfParts parts;
  Work refresh;                       // of one choice of the subspace, all layers
  double trained = 0;                 // numbers
  double exchange_bytes = 0;          // a worker's gradients of the trained numbers, per step
  double refresh_exchange_bytes = 0;  // the whole gradients, where a refresh reads them
};
StepWork step_work(const LinearBlocks& model, std::size_t tokens, std::size_t rank,
                   const Scenario& scenario, const Priced& method);

// A ring all-reduce: each of p workers sends 2(p − 1)/p of `bytes`.
double ring_seconds(double bytes, std::size_t workers, double gigabits);

}  // namespace gradview
