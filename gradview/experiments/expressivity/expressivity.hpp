// expressivity: how much of a wanted change of one weight each method can express with as many
// numbers.
#pragma once

namespace gradview {

int expressivity_main(int argc, const char* const* argv);

}  // namespace gradview
