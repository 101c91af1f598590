// The projectors by name. A method is one header and one line in registry.cpp; from outside,
// register_projector.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gradview/projections/projector.hpp"

namespace gradview {

struct Method {
  std::string name, summary;
  std::vector<std::string> law_specs;  // the specs that the laws run with
  std::vector<OptionHelp> options;
  bool trains_biases = false;
  bool caps_rank = true;                   // its rank, if it has one, is at most min(m, n)
  std::function<void(const Spec&)> check;  // throws on a bad option, whatever the matrix
  std::function<std::unique_ptr<Projector>(const Spec&, const Site&)> make;
  std::function<Count(const Spec&, Shape)> count;
};

// The Method of a class P: P::Options with declare(OptionSet&), P(Options, Site), P::count(Options,
// Shape).
template <class P>
Method method(std::string name, std::string summary, std::vector<std::string> law_specs) {
  using Options = typename P::Options;
  Method m{std::move(name), std::move(summary), std::move(law_specs), {}, false, true, {}, {}, {}};
  m.options = describe_options<Options>(m.name);
  if constexpr (requires { P::kTrainsBiases; }) m.trains_biases = P::kTrainsBiases;
  if constexpr (requires { P::kCapsRank; }) m.caps_rank = P::kCapsRank;
  m.check = [](const Spec& spec) { read_options<Options>(spec); };
  m.make = [](const Spec& spec, const Site& site) {
    return std::make_unique<P>(read_options<Options>(spec), site);
  };
  m.count = [](const Spec& spec, Shape shape) {
    return P::count(read_options<Options>(spec), shape);
  };
  return m;
}

const std::vector<Method>& projectors();  // in the order of registration
// Not while another thread makes a projector. Throws std::invalid_argument on a name that is taken.
void register_projector(Method method);

const Method& find_projector(
    const std::string& name);  // throws std::invalid_argument with the nearest name
// Throws std::invalid_argument where the name or an option is wrong for any matrix at all.
void check_projector(const Spec& spec);
std::unique_ptr<Projector> make_projector(const Spec& spec, const Site& site);
Count count_numbers(const Spec& spec, Shape shape);

}  // namespace gradview
