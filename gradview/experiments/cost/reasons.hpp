// Why a LoRA step is faster than a full one: the time between the two as a sum, one reason after
// the other.
//
//     T(full, all) − T(lora, S) = [T(full, all) − T(full, S)]           fewer matrices
//                               + [T(full, S) − T(lora formed, S)]      fewer numbers in each
//                               + [T(lora formed, S) − T(lora, S)]      G left as δᵀx
//                               + [T(lora, S) − T(lora, S, bf16 …)]     low precision, where measured
//
// and beside it what exchanging the gradients costs less, from their bytes. Su: LoRA from a gradient
// perspective, blog post 9590, 2023, section 2, names the first two (as one), communication and
// precision, and holds that forming nothing saves nothing.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/cost/steps.hpp"

namespace gradview {

struct Estimate {
  double median, low, high;
};
// The median, and the order statistics that hold it with at least 95 %: no distribution is assumed.
// low and high are NaN below six values.
Estimate estimate(const std::vector<double>& values);

struct Network {
  std::size_t workers = 8;
  double gigabits = 10;
};

struct Reason {
  std::string scenario, reason;  // "computing" is the sum of all but communication
  Estimate seconds;              // saved
  Estimate share;                // of the computing that is saved; NaN for communication
  Estimate together;             // of all that is saved, communication included and not overlapped
};

struct Attribution {
  std::vector<Reason> reasons;
  struct Balance {
    std::string scenario;
    Estimate gigabits;  // below this bandwidth communication saves more time than all the rest
  };
  std::vector<Balance> balances;

  // The reason whose share of all that is saved lies above every other's, or "undecided".
  std::string most(const std::string& scenario) const;
};

struct Claim {
  std::string text;
  Estimate ratio;               // measured
  double counted;               // the same ratio in operations
  std::string verdict() const;  // holds: above 1 | does not: below | undecided
};

class Findings {
 public:
  Findings(const Plan& plan, const std::vector<Case>& cases, const Network& network);
  const StepWork& work(const Case& one) const;
  const Attribution& attribution() const { return attribution_; }
  const std::vector<Claim>& claims() const { return claims_; }

 private:
  const Case* find(const std::string& scenario, const std::string& method,
                   const std::string& compute) const;
  void attribute(const std::string& scenario, const Network& network);
  void judge();

  const std::vector<Case>& cases_;
  std::vector<StepWork> work_;
  Attribution attribution_;
  std::vector<Claim> claims_;
};

}  // namespace gradview
