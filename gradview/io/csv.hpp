// Tables as comma-separated values (RFC 4180), quoted where need be.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gradview {

// One record and its "\n".
std::string csv_line(const std::vector<std::string>& fields);

struct CsvTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // each as long as the header

  std::size_t column(std::string_view name) const;  // DataError that lists the columns
};

// A last record without its end of line was torn by a crash and is dropped. DataError on a missing
// file, no header, a stray quote, or a row of another length. Lines may end in "\n" or "\r\n".
CsvTable read_csv(const std::string& path);

}  // namespace gradview
