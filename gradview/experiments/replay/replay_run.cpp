#include "gradview/experiments/replay/replay_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/io/safetensors_header.hpp"
#include "gradview/projections/captured.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
ReplayRun::ReplayRun(std::string projector, Optimizer::Settings settings, const Weights& start,
                     const std::vector<std::string>& recorded, InitialFactors* factors)
    : projector_(std::move(projector)),
      settings_(std::move(settings)),
      start_(start),
      optimizer_(settings_) {
  for (const std::string& name : recorded) adapted_.add(name, start[name]);
  const Spec spec = parse_spec(projector_);
  plan(spec);
  for (Planned& planned : plan_) {
    if (!planned.projector) continue;
    Matrix& weight = adapted_[planned.name];
    auto made = make_projector(spec, Site{.name = planned.name,
                                          .weight = weight,
                                          .seed = settings_.seed,
                                          .steps = settings_.steps});
    if (factors) factors->set(planned.name, *made);
    const std::string note = made->note();
    if (!note.empty()) planned.note += (planned.note.empty() ? "" : "; ") + note;
    optimizer_.add(planned.name, weight, std::move(made));
  }
}

void ReplayRun::plan(const Spec& spec) {
  const std::size_t rank = asked_rank(spec);
  bool fits = false;
  for (const auto& [name, weight] : start_) {
    Planned planned{.name = name, .shape = shape_of(weight), .projector = {}, .note = {}};
    const bool recorded = std::any_of(adapted_.begin(), adapted_.end(), [&](const auto& entry) {
      return entry.first == planned.name;
    });
    if (recorded) {
      const std::size_t limit = capped_rank(rank, planned.shape);
      fits = fits || limit == rank;
      planned.projector = spec;
      planned.trained = count_numbers(spec, planned.shape).trained;
      planned.note = limit < rank ? fmt::format("rank capped at {}", limit) : "";
    }
    plan_.push_back(std::move(planned));
  }
  if (fits) return;
  throw std::invalid_argument(
      fmt::format("rank {} of '{}' is above the limit of every matrix", rank, projector_));
}

void ReplayRun::open(const std::string& path, bool traced, const Metadata& metadata) {
  traced_ = traced;
  SafetensorsWriter::Shapes shapes;
  std::map<std::string, std::string> taken;  // by what
  const auto add = [&](const std::string& name, const std::string& what,
                       const std::vector<std::size_t>& shape) {
    const auto [other, fresh] = taken.try_emplace(name, what);
    if (!fresh) {
      throw DataError(fmt::format("{}: {} and {} would both be written as {}", path, other->second,
                                  what, quoted_name(name)));
    }
    shapes.emplace_back(name, shape);
  };
  for (const auto& [name, weight] : start_) {
    add(name, "the weight " + quoted_name(name), {weight.shape()[0], weight.shape()[1]});
  }
  for (const auto& [name, weight] : adapted_) {
    const std::string of = " of the weight " + quoted_name(name), prefix = name + ".";
    optimizer_.projector(name).fields([&](std::string_view field, const Matrix& value, Role) {
      add(prefix + std::string(field), fmt::format("the factor {}{}", field, of),
          {value.shape()[0], value.shape()[1]});
    });
    if (traced) {
      add(prefix + "trace", "the trace" + of,
          {settings_.steps + 1, weight.shape()[0], weight.shape()[1]});
    }
  }
  file_.emplace(path, shapes, metadata);
  trace(0);
}

void ReplayRun::trace(std::size_t step) {
  if (!traced_) return;
  for (const auto& [name, weight] : adapted_) {
    file_->write(name + ".trace", step * weight.size(), weight.data(), weight.size());
  }
}

void ReplayRun::observe() {
  observing_ = true;
  seen_.clear();
  optimizer_.observe();
}

void ReplayRun::collect(const std::string& name, const Gradient& g) {
  optimizer_.collect(name, g);
  if (observing_) {
    seen_.push_back({{}, captured_energy(optimizer_.projector(name), g, adapted_[name])});
  }
}

void ReplayRun::step() {
  const std::size_t done = optimizer_.steps_done();
  optimizer_.step();
  if (observing_) record_seen();
  for (const auto& [name, weight] : adapted_) {
    if (all_finite(weight)) continue;
    divergence_ = Divergence{name, done};
    file_.reset();
    return;
  }
  trace(done + 1);
}

void ReplayRun::record_seen() {
  auto seen = seen_.begin();
  for (const auto& [name, weight] : adapted_) {
    seen->observation = optimizer_.observation(name);
    gain_.add(seen->observation.gain());
    cosine_.add(seen->observation.cosine());
    ++seen;
  }
  observing_ = false;
}

void ReplayRun::write() {
  for (const auto& [name, weight] : start_) {
    const auto adapted =
        std::find_if(adapted_.begin(), adapted_.end(),
                     [&, key = name](const auto& entry) { return entry.first == key; });
    file_->write(name, adapted == adapted_.end() ? weight : adapted->second);
  }
  for (const auto& [name, weight] : adapted_) {
    optimizer_.projector(name).fields(
        [&, of = name](std::string_view field, const Matrix& value, Role) {
          file_->write(fmt::format("{}.{}", of, field), value);
        });
  }
}

void ReplayRun::commit() { file_->commit(); }

double ReplayRun::distance() const {
  double squares = 0;
  for (const auto& [name, weight] : adapted_) {
    squares += squared_norm(difference(weight, start_[name]));
  }
  return std::sqrt(squares);
}

}  // namespace gradview
