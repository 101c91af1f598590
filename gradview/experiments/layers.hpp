// layers.csv: what is known of single matrices along a reported run, one number per row.
//
//     method,optimizer,lr,seed,step,parameter,key,value
//
// The rows come from Projector::figures() of every adapted matrix and from the experiment's own
// Watch, at the steps at which metrics.csv has rows. Those of step t < T are taken when step t is
// done, so that what it saw is known; those of T at the end. There is no file where there are no
// rows.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "gradview/experiments/metrics.hpp"
#include "gradview/models/weights.hpp"
#include "gradview/optim/optimizer.hpp"

namespace gradview {

struct Watched {
  const Run& run;  // whose curve, rate and seed it is
  std::size_t step;
  const Weights& start;    // as the run began
  const Weights& weights;  // as they are now
  Optimizer& optimizer;    // its observation(NAME) is that of this step, except at the end
  std::vector<LayerRow>& rows;
  void add(const std::string& parameter, const std::string& key, double value) const {
    rows.push_back({step, parameter, key, value});
  }
};

// Rows of an experiment's own, beside the projectors' figures. Called by several threads.
using Watch = std::function<void(const Watched&)>;

using RunId = std::tuple<std::string, std::string, double, std::uint64_t>;  // curve, lr, seed
inline RunId id_of(const Run& run) {
  return {run.curve.method, run.curve.optimizer, run.lr, run.seed};
}

std::string layers_header();
std::string layers_text(const Run& run);
// The rows of a layers.csv by run; a torn tail is left out. Throws DataError where the file is
// something else.
std::map<RunId, std::vector<LayerRow>> read_layers(const std::string& path);

}  // namespace gradview
