// The picture of a run folder, drawn by the Python script that comes with the library.
#pragma once

#include <string>

namespace gradview {

// Runs the plotting script on `folder`. Returns a reason where there is no picture: no script, no
// Python with matplotlib.
std::string draw_plots(const std::string& folder);

}  // namespace gradview
