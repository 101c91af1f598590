// A knob: the one option of a spec that is tuned beside the learning rate, written with its values
// separated by |, as in lora:rank=8,lr_ratio=1|4|16.
#pragma once

#include <string>
#include <vector>

namespace gradview {

// The specs that `text` stands for, one per value of its knob, in the order given; `text` alone
// where it has none. Throws std::invalid_argument on a second knob, an empty value or one that is
// there twice.
std::vector<std::string> alternatives(const std::string& text);

}  // namespace gradview
