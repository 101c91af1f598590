#include "gradview/io/peft_format.hpp"

#include <stdexcept>

namespace gradview::peft {
namespace {

const Parts kPair = {{"v", "lora_A.weight"}, {"u", "lora_B.weight"}};
const Parts kEmbedded = {{"u", "lora_embedding_A", false, true},
                         {"v", "lora_embedding_B", false, true}};

}  // namespace

const std::vector<Tuner>& tuners() {
  static const std::vector<Tuner> all = {
      {"lora", "LORA", {{kPair}}, "r", "lora_alpha", false, true},
      {"dora",
       "LORA",
       {{kPair}, {{{"magnitude", "lora_magnitude_vector", true}}}},
       "r",
       "lora_alpha",
       true,
       true},
      {"adalora",
       "ADALORA",
       {{{{"v", "lora_A"}, {"lambda", "lora_E"}, {"u", "lora_B"}}}},
       "init_r",
       "lora_alpha",
       true,
       true},
      {"loha",
       "LOHA",
       {{{{"u1", "hada_w1_a"}, {"v1", "hada_w1_b"}, {"u2", "hada_w2_a"}, {"v2", "hada_w2_b"}}}},
       "r",
       "alpha",
       true,
       false},
      {"lokr",
       "LOKR",
       {{{{"w1", "lokr_w1"}}, {{"w1_a", "lokr_w1_a"}, {"w1_b", "lokr_w1_b"}}},
        {{{"w2", "lokr_w2"}}, {{"w2_a", "lokr_w2_a"}, {"w2_b", "lokr_w2_b"}}}},
       "r",
       "alpha",
       true,
       false},
      {"vera",
       "VERA",
       {{{{"b", "vera_lambda_b", true}, {"d", "vera_lambda_d", true}}}},
       "r",
       nullptr,
       true,
       true}};
  return all;
}

const Tuner& tuner_of(const std::string& method) {
  for (const Tuner& t : tuners()) {
    if (t.method == method) return t;
  }
  throw std::invalid_argument("PEFT has no adapter '" + method +
                              "' here; there are lora, dora, adalora, loha, lokr, vera");
}

std::map<std::string, Place> places_of(const std::vector<WeightSpec>& specs) {
  std::map<std::string, Place> places;
  const std::string end = ".weight";
  for (const WeightSpec& s : specs) {
    if (s.stored == Stored::vector || !s.name.ends_with(end)) continue;
    places[s.name.substr(0, s.name.size() - end.size())] = {s.shape, s.stage == 0,
                                                            s.stored == Stored::transposed};
  }
  return places;
}

std::vector<Forms> sides_of(const Tuner& tuner, const Place& place) {
  if (place.embedding && !tuner.linear_only) return {{kEmbedded}};
  return tuner.sides;
}

}  // namespace gradview::peft
