#include "gradview/io/peft_projector.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/peft_format.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

std::set<std::string> fields_of(Projector& projector) {
  std::set<std::string> names;
  projector.fields([&](std::string_view name, Matrix&, Role) { names.emplace(name); });
  return names;
}

// Has the projector the factors of one form of each side?
bool holds(const peft::Tuner& tuner, const std::set<std::string>& fields) {
  return std::all_of(tuner.sides.begin(), tuner.sides.end(), [&](const peft::Forms& forms) {
    return std::any_of(forms.begin(), forms.end(), [&](const peft::Parts& parts) {
      return std::all_of(parts.begin(), parts.end(),
                         [&](const peft::Part& part) { return fields.contains(part.field); });
    });
  });
}

std::optional<double> option(const Spec& spec, const std::string& key) {
  if (const std::string* given = spec.find(key)) return parse_number(*given);
  for (const OptionHelp& known : find_projector(spec.name).options) {
    if (known.key == key) return parse_number(known.value);
  }
  return std::nullopt;
}

bool has_option(const Spec& spec, const std::string& key) {
  const auto& known = find_projector(spec.name).options;
  return std::any_of(known.begin(), known.end(), [&](const auto& o) { return o.key == key; });
}

double scale_of(const Spec& spec, Projector& projector) {
  if (const auto product = projector.product()) return product->s;
  const double rank = option(spec, "rank").value_or(1);
  const double alpha = option(spec, "alpha").value_or(rank);
  return alpha / (peft_rslora(spec) ? std::sqrt(rank) : rank);
}

}  // namespace

bool peft_rslora(const Spec& spec) {
  const std::string* scaling = spec.find("scaling");
  return scaling && *scaling == "rslora";
}

std::string peft_method(const Spec& spec, Projector& projector) {
  const std::set<std::string> fields = fields_of(projector);
  for (const peft::Tuner& tuner : peft::tuners()) {
    if (tuner.method == spec.name && holds(tuner, fields)) return spec.name;
  }
  return projector.product() ? "lora" : "";
}

Adapter::Module peft_module(const Adapter& adapter, const std::string& path, const Spec& spec,
                            Shape shape, Projector& projector) {
  if (adapter.method == "lora") {
    const auto product = projector.product();
    if (!product) throw std::logic_error("peft_module: " + path + " has no product");
    return lora_module(path, *product, adapter.rslora);
  }
  Adapter::Module module{path, {}, 0, 0};
  const auto asked = static_cast<std::size_t>(option(spec, "rank").value_or(1));
  module.rank = find_projector(spec.name).caps_rank ? capped_rank(asked, shape) : asked;
  adapter.set_scale(module, scale_of(spec, projector));
  std::set<std::string> parts;
  for (const peft::Forms& forms : peft::tuner_of(adapter.method).sides) {
    for (const peft::Parts& form : forms) {
      for (const peft::Part& part : form) parts.insert(part.field);
    }
  }
  if (adapter.method == "vera") parts.insert({"u", "v"});  // the frames
  projector.fields([&](std::string_view name, Matrix& value, Role) {
    if (parts.contains(std::string(name))) module.factors[std::string(name)] = value;
  });
  return module;
}

std::optional<LowRank> product_on_mutated_base(Projector& projector) {
  const auto whole = projector.product();
  if (!whole || !fields_of(projector).contains("u0")) return std::nullopt;
  LowRank own{{}, {}, whole->s};
  projector.fields([&](std::string_view name, Matrix& value, Role) {
    if (name == "u") own.u = value;
    if (name == "v") own.v = value;
  });
  return own;
}

Spec peft_spec(const Adapter& adapter, const Adapter::Module& module, Spec more) {
  if (more.name.empty()) more.name = adapter.method;
  if (more.find("init")) {
    throw std::invalid_argument("init has no meaning for " + more.name +
                                " that goes on from an adapter");
  }
  std::vector<std::pair<std::string, std::string>> add;
  const auto set = [&](const char* key, const std::string& value) {
    if (!more.find(key) && has_option(more, key)) add.emplace_back(key, value);
  };
  set("rank", std::to_string(module.rank));
  if (adapter.rslora) set("scaling", "rslora");
  const bool own_alpha = more.find("alpha") != nullptr;
  set("alpha", exact(module.alpha));
  Spec spec = with_options(more, add);
  if (own_alpha || !has_option(spec, "alpha")) return spec;
  // A method may scale in a way of its own: one whose s is proportional to alpha gets that right.
  const Matrix w = zeros({2 * module.rank, 2 * module.rank});
  const Site site{.name = module.path, .weight = w};
  const double s = scale_of(spec, *make_projector(spec, site)), wanted = adapter.scale(module);
  if (s == wanted) return spec;
  return with_options(spec, {{"alpha", exact(module.alpha * wanted / s)}});
}

void take_up(const Adapter& adapter, const Adapter::Module& module, const Spec& spec,
             Projector& projector, Shape shape, Matrix* w) {
  const double s = scale_of(spec, projector), wanted = adapter.scale(module);
  if (!(std::abs(s - wanted) <= 1e-9 * std::abs(wanted))) {
    throw std::invalid_argument(to_string(spec) + " scales by " + exact(s) +
                                ", the adapter's module " + module.path + " by " + exact(wanted));
  }
  std::size_t found = 0;
  const auto each = [&](const std::function<void(const Matrix& from, Matrix& to, Role)>& visit) {
    found = 0;
    projector.fields([&](std::string_view name, Matrix& value, Role role) {
      const auto factor = module.factors.find(std::string(name));
      if (factor == module.factors.end()) return;
      if (shape_of(factor->second) != shape_of(value)) {
        throw std::invalid_argument(to_string(spec) + ": its " + std::string(name) + " is " +
                                    to_string(shape_of(value)) + ", the adapter's module " +
                                    module.path + " has " + to_string(shape_of(factor->second)));
      }
      visit(factor->second, value, role);
      ++found;
    });
  };
  each([](const Matrix& from, Matrix& to, Role role) {
    if (role == Role::frozen) to = from;
  });
  if (found != module.factors.size()) {
    throw std::invalid_argument(to_string(spec) + " has not the factors of the adapter's module " +
                                module.path);
  }
  Factors direction = projector.factors();  // θ + u = the module's factors
  std::size_t k = 0;
  projector.fields([&](std::string_view name, Matrix&, Role role) {
    if (role != Role::trained) return;
    Matrix& d = direction[k++];
    const auto factor = module.factors.find(std::string(name));
    d = factor == module.factors.end() ? zeros(shape_of(d)) : difference(factor->second, d);
  });
  const Gradient none(shape);
  const Factors zero = projector.project(none, w ? *w : zeros({0, 0}));
  projector.retract({none, zero, direction, 0}, w);
  each([](const Matrix& from, Matrix& to, Role role) {
    if (role == Role::trained) to = from;  // to the last bit
  });
}

}  // namespace gradview
