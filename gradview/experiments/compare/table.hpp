// The result table: as text for people, as table.csv for programs.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/compare/comparison.hpp"
#include "gradview/experiments/compare/search.hpp"

namespace gradview {

// by_state: rows in order of their state's bytes, under a heading per group.
std::string table_text(const Table& table, double margin, bool by_state = false);
std::string table_csv(
    const Table& table);  // one row per curve (seed "all"), one per seed, one per contrast
// Which of a curve's alternatives the table.csv of an earlier run reports, and at which learning
// rate. Throws DataError where it reports none of them.
Candidate chosen_in_table(const std::string& folder, const std::vector<Curve>& alternatives);

}  // namespace gradview
