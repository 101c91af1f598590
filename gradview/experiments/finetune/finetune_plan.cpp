#include "gradview/experiments/finetune/finetune_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <regex>
#include <set>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/adaptation.hpp"
#include "gradview/io/peft_projector.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

std::string module_of(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }
std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

class Pattern {
 public:
  Pattern(std::string flag, std::string text) : flag_(std::move(flag)), text_(std::move(text)) {
    try {
      regex_ = std::regex(text_);
    } catch (const std::regex_error&) {
      throw std::invalid_argument(flag_ + " '" + text_ + "' is not a regular expression");
    }
  }
  bool matches(const std::string& module) const {
    return !text_.empty() && std::regex_search(module, regex_);
  }
  // The whole must match a module; and so must each of several words between bars.
  void require_match(const std::vector<std::string>& modules) const {
    const bool words = text_.find_first_of("()[]{}\\*+?^$") == text_.npos;
    for (const std::string& part : words ? split(text_, '|') : std::vector{text_}) {
      const std::regex regex(part);
      if (std::any_of(modules.begin(), modules.end(),
                      [&](const auto& m) { return std::regex_search(m, regex); })) {
        continue;
      }
      std::vector<std::string> names;
      for (const std::string& module : modules) {
        const std::string name = last_part(module);
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
      }
      throw std::invalid_argument(flag_ + " '" + part + "' matches no module; they end in " +
                                  join(names, ", ") + did_you_mean(part, names));
    }
  }

 private:
  std::string flag_, text_;
  std::regex regex_;
};

class Planner {
 public:
  Planner(const FineTuneSettings& settings, const TextModel& model, const Adapter* adapter,
          const std::vector<std::string>& fresh)
      : settings_(settings),
        adapter_(adapter),
        specs_(model.weights()),
        target_("--target", settings.target),
        saved_("--save-modules", settings.save_modules),
        tied_(model.tied()),
        fresh_(fresh.begin(), fresh.end()) {
    for (const std::string& name : model.head()) head_.insert(name);
    if (!settings.projector.empty()) {
      projector_ = parse_spec(settings.projector);
      all_biases_ = find_projector(projector_.name).trains_biases;
    }
    bias_ = adapter && settings.bias == "none" ? adapter->bias : settings.bias;
    const std::vector<std::string> matrices = modules(false), any = modules(true);
    if (!settings.target.empty()) target_.require_match(matrices);
    if (!settings.save_modules.empty()) saved_.require_match(any);
    for (const std::string& module : any) {
      if (saved_.matches(module)) whole_.insert(module);
    }
    for (const std::string& name : head_) whole_.insert(module_of(name));
    if (!adapter) return;
    for (const auto& [name, value] : adapter->saved) whole_.insert(module_of(name));
    for (const Adapter::Module& module : adapter->modules) {
      if (module.path + ".weight" == tied_) {
        throw DataError(settings.adapter + ": the adapter sits on " + module.path +
                        ", whose weight is the head as well (tied); merging would change both");
      }
      if (settings.target.empty() || target_.matches(module.path)) continue;
      throw std::invalid_argument("--target '" + settings.target + "' leaves out " + module.path +
                                  ", on which the adapter sits");
    }
  }

  std::vector<TunedWeight> plan() const {
    std::vector<TunedWeight> all;
    for (const WeightSpec& spec : specs_) {
      TunedWeight planned{.name = spec.name,
                          .module = module_of(spec.name),
                          .shape = spec.shape,
                          .projector = {},
                          .note = {}};
      decide(spec, planned);
      if (planned.projector)
        planned.trained = count_numbers(*planned.projector, spec.shape).trained;
      if (!planned.projector && planned.saved) planned.note = "fresh, saved";
      all.push_back(std::move(planned));
    }
    return all;
  }

 private:
  // Those with a matrix, the classifier's head apart; or all.
  std::vector<std::string> modules(bool any) const {
    std::vector<std::string> all;
    for (const WeightSpec& spec : specs_) {
      const std::string module = module_of(spec.name);
      if (!any && (spec.stored == Stored::vector || head_.contains(spec.name))) continue;
      if (all.empty() || all.back() != module) all.push_back(module);
    }
    return all;
  }
  const Adapter::Module* module_in_adapter(const std::string& path) const {
    if (!adapter_) return nullptr;
    for (const Adapter::Module& module : adapter_->modules) {
      if (module.path == path) return &module;
    }
    return nullptr;
  }
  bool targeted(const std::string& module) const {
    return module_in_adapter(module) || target_.matches(module);
  }

  void decide(const WeightSpec& spec, TunedWeight& planned) const {
    const bool vector = spec.stored == Stored::vector;
    planned.saved = whole_.contains(planned.module) || fresh_.contains(spec.name);
    if (!settings_.adapts() && !settings_.in_four_bits()) return;
    const Spec full{"full", {}};
    const bool fresh = fresh_.contains(spec.name);  // nothing that an adapter could sit on
    if (whole_.contains(planned.module) || (fresh && targeted(planned.module))) {
      planned.projector = full;
    } else if (!vector && targeted(planned.module)) {
      planned.adapted = true;
      const Adapter::Module* from = module_in_adapter(planned.module);
      planned.projector = from ? peft_spec(*adapter_, *from, projector_) : projector_;
      if (planned.projector->name.empty()) planned.projector->name = adapter_->method;
    } else if (vector && spec.name.ends_with(".bias") && trains_bias(planned.module)) {
      planned.bias = true;
      planned.projector = full;
    } else if (vector && projector_.name == "full" && targeted(planned.module)) {
      planned.projector = full;  // a module under full is trained whole
    }
  }
  bool trains_bias(const std::string& module) const {
    return all_biases_ || bias_ == "all" || (bias_ == "lora_only" && targeted(module));
  }

  const FineTuneSettings& settings_;
  const Adapter* adapter_;
  std::vector<WeightSpec> specs_;
  Pattern target_, saved_;
  std::string tied_, bias_;
  Spec projector_;
  bool all_biases_ = false;
  std::set<std::string> fresh_, head_, whole_;
};

}  // namespace

std::vector<TunedWeight> plan_finetune(const FineTuneSettings& settings, const TextModel& model,
                                       const Adapter* adapter,
                                       const std::vector<std::string>& fresh) {
  return Planner(settings, model, adapter, fresh).plan();
}

std::string describe(const std::vector<TunedWeight>& plan) {
  std::vector<Planned> rows;
  for (const TunedWeight& each : plan) {
    rows.push_back({.name = each.name,
                    .shape = each.shape,
                    .projector = each.projector,
                    .trained = each.trained,
                    .note = each.note});
  }
  return describe(rows);
}

}  // namespace gradview
