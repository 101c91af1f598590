#include "row.hpp"
namespace gradview {
std::vector<Entry> block_rows() { return {}; }
}  // namespace gradview
