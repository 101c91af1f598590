// unbiased: what random frames promise in the mean, measured through Optimizer::step against the
// closed forms.
#pragma once

namespace gradview {

int unbiased_main(int argc, const char* const* argv);

}  // namespace gradview
