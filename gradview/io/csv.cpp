// Tables as comma-separated values, record by record.
#include "gradview/io/csv.hpp"

#include <algorithm>
#include <optional>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace {

std::string quoted_if_needed(const std::string& field) {
  if (field.find_first_of(",\"\r\n") == field.npos) return field;
  std::string text = "\"";
  for (const char c : field) text += c == '"' ? "\"\"" : std::string(1, c);
  return text + '"';
}

class CsvReader {
 public:
  CsvReader(const std::string& path, std::string_view text) : path_(path), rest_(text) {}

  // The next record that has its end of line.
  std::optional<std::vector<std::string>> record() {
    first_line_ = line_;
    std::vector<std::string> fields;
    for (;;) {
      fields.push_back(field());
      if (take("\n") || take("\r\n")) return fields;
      if (rest_.empty() || rest_ == "\r") return std::nullopt;
      if (!take(",")) fail("has text after a closing quote, expected a comma");
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(path_ + ": line " + std::to_string(first_line_) + " " + what);
  }

 private:
  std::string field() { return take("\"") ? quoted_field() : plain_field(); }

  std::string plain_field() {
    std::size_t end = std::min(rest_.find_first_of(",\"\n"), rest_.size());
    if (end < rest_.size() && rest_[end] == '"') fail("has a quote inside an unquoted field");
    if (end > 0 && rest_[end - 1] == '\r' && end < rest_.size() && rest_[end] == '\n') --end;
    return std::string(consume(end));
  }

  std::string quoted_field() {
    std::string text;
    for (;;) {
      text += consume(std::min(rest_.find('"'), rest_.size()));
      if (!take("\"") || !take("\"")) return text;
      text += '"';
    }
  }

  bool take(std::string_view token) {
    if (rest_.substr(0, token.size()) != token) return false;
    consume(token.size());
    return true;
  }

  std::string_view consume(std::size_t size) {
    const std::string_view text = rest_.substr(0, size);
    rest_.remove_prefix(size);
    line_ += static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    return text;
  }

  const std::string& path_;
  std::string_view rest_;
  std::size_t line_ = 1, first_line_ = 1;
};

}  // namespace

std::string csv_line(const std::vector<std::string>& fields) {
  if (fields.size() == 1 && fields[0].empty()) return "\"\"\n";  // not a blank line
  std::string line;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) line += ',';
    line += quoted_if_needed(fields[i]);
  }
  return line + "\n";
}

std::size_t CsvTable::column(std::string_view name) const {
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) {
    throw DataError("no column '" + std::string(name) + "'; there are " + join(header, ", "));
  }
  return static_cast<std::size_t>(found - header.begin());
}

CsvTable read_csv(const std::string& path) {
  const std::string text = read_text(path);
  CsvReader reader(path, text);
  auto header = reader.record();
  if (!header) throw DataError(path + ": has no whole line, expected a header");
  CsvTable table{std::move(*header), {}};
  while (auto row = reader.record()) {
    if (row->size() != table.header.size()) {
      reader.fail("has " + std::to_string(row->size()) + " fields, expected " +
                  std::to_string(table.header.size()));
    }
    table.rows.push_back(std::move(*row));
  }
  return table;
}

}  // namespace gradview
