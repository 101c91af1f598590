// The laws over the whole registry, and the check that they would notice a fault.
#include "gradview/laws.hpp"

#include <gtest/gtest.h>

#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

std::vector<std::string> all_specs() {
  std::vector<std::string> specs;
  for (const Method& method : projectors()) {
    specs.insert(specs.end(), method.law_specs.begin(), method.law_specs.end());
  }
  return specs;
}

class Laws : public testing::TestWithParam<std::string> {};

TEST_P(Laws, Hold) { EXPECT_EQ(broken_laws(GetParam()), std::vector<std::string>{}); }

TEST_P(Laws, NoticeEveryPlantedFault) {
  EXPECT_EQ(surviving_mutants(GetParam()), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(Registry, Laws, testing::ValuesIn(all_specs()),
                         [](const auto& test) { return "spec" + std::to_string(test.index); });

}  // namespace
}  // namespace gradview
