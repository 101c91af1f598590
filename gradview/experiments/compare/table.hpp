// The result table: as text for people, as table.csv for programs.
#pragma once

#include <string>

#include "gradview/experiments/compare/comparison.hpp"

namespace gradview {

std::string table_text(const Table& table, double margin);
std::string table_csv(
    const Table& table);  // one row per curve (seed "all"), one per seed, one per contrast
// The learning rate of each curve from the table.csv of an earlier run. Throws DataError where one
// is missing.
double lr_from_table(const std::string& folder, const Curve& curve);

}  // namespace gradview
