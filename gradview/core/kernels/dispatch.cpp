#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/kernels/kernels.hpp"

namespace gradview {

#if defined(__x86_64__)
#define GRADVIEW_FOR_EACH_ISA(X) X(x86_64_v4) X(x86_64_v3) X(x86_64)
#else
#define GRADVIEW_FOR_EACH_ISA(X) X(native)
#endif

#define GRADVIEW_DECLARE(name)    \
  namespace name {                \
  void set_products(Kernels&);    \
  void set_elementwise(Kernels&); \
  }
GRADVIEW_FOR_EACH_ISA(GRADVIEW_DECLARE)

namespace {

bool runs_here(const std::string& isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == "x86_64") return true;
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2");
  if (isa == "x86_64_v3") return v3;
  return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#else
  return isa == "native";
#endif
}

std::vector<Kernels> supported() {
  std::vector<Kernels> found;
#define GRADVIEW_ADD(name)               \
  if (runs_here(#name)) {                \
    found.push_back({.isa = #name});     \
    name::set_products(found.back());    \
    name::set_elementwise(found.back()); \
  }
  GRADVIEW_FOR_EACH_ISA(GRADVIEW_ADD)
  return found;
}

const Kernels& chosen() {
  const std::span<const Kernels> all = kernels_of_this_cpu();
  const char* wanted = std::getenv("GRADVIEW_ISA");
  if (!wanted || !*wanted) return all.front();
  std::string names;
  for (const Kernels& set : all) {
    if (std::string(set.isa) == wanted) return set;
    names += (names.empty() ? "" : ", ") + std::string(set.isa);
  }
  throw std::invalid_argument("GRADVIEW_ISA: no kernels for '" + std::string(wanted) +
                              "' that run here; there are " + names);
}

}  // namespace

std::span<const Kernels> kernels_of_this_cpu() {
  static const std::vector<Kernels> all = supported();
  return all;
}

const Kernels& kernels() {
  static const Kernels& set = chosen();
  return set;
}

}  // namespace gradview
