// Real: the number that the library computes in.
#pragma once

namespace gradview {

// The library builds twice from the same sources: as float (experiments) and as double
// (identities).
#ifdef GRADVIEW_DOUBLE
using Real = double;
#else
using Real = float;
#endif

}  // namespace gradview
