#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "cli/command.h"
#include "common/config.h"

namespace pagoda::cli {

bool IsTerminal(int descriptor) { return isatty(descriptor) == 1; }

int TerminalColumns() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 100;
}

Progress::Progress(int plain_interval_ms)
    : terminal_(IsTerminal(STDOUT_FILENO)), plain_interval_ns_(plain_interval_ms * kNsPerMs) {}

Progress::~Progress() { Clear(); }

void Progress::Update(std::string_view text) {
  if (text == shown_) return;
  if (terminal_) {
    const size_t width = static_cast<size_t>(std::max(TerminalColumns() - 1, 20));
    std::cout << "\r\033[K" << text.substr(0, width) << std::flush;
  } else {
    const MonotonicNs now = NowNs();
    if (last_ns_ != 0 && now - last_ns_ < plain_interval_ns_) return;
    last_ns_ = now;
    std::cout << text << std::endl;
  }
  shown_ = text;
}

void Progress::Finish(std::string_view text) {
  Clear();
  std::cout << text << std::endl;
  last_ns_ = 0;
}

void Progress::Clear() {
  if (terminal_ && !shown_.empty()) std::cout << "\r\033[K" << std::flush;
  shown_.clear();
}

std::string HumanBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text;
}

std::string HumanNumber(double value) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G"};
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof(text), value < 10 ? "%.2f%s" : value < 100 ? "%.1f%s" : "%.0f%s", value, kUnits[unit]);
  return text;
}

namespace {

bool IsNumber(const std::string& cell) {
  return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) || cell[0] == '-');
}

// A column of numbers below a heading.
bool IsNumberColumn(const std::vector<std::vector<std::string>>& rows, size_t column) {
  for (size_t i = 1; i < rows.size(); ++i) {
    if (column < rows[i].size() && !IsNumber(rows[i][column])) return false;
  }
  return rows.size() > 1;
}

// Columns of a terminal that UTF-8 text takes, wide characters apart.
size_t Width(const std::string& cell) {
  return static_cast<size_t>(std::count_if(cell.begin(), cell.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string RenderTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::vector<bool> right(widths.size());
  for (size_t i = 0; i < right.size(); ++i) right[i] = IsNumberColumn(rows, i);
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i]), ' ');
      if (i > 0) line += "  ";
      line += right[i] ? padding + row[i] : row[i] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

int Fail(const absl::Status& status) {
  std::cerr << "pagoda: error: " << status.message() << std::endl;
  return kExitFailed;
}

bool ParseOrExit(CLI::App& app, int argc, const char* const* argv, int& exit_status) {
  const absl::Status parsed = ParseCommandLine(app, argc, argv);
  if (parsed.ok()) return true;
  if (absl::IsCancelled(parsed)) {
    exit_status = kExitOk;
  } else {
    std::cerr << "pagoda: error: " << parsed.message() << "\n" << "See " << app.get_name() << " --help.\n";
    exit_status = kExitUsage;
  }
  return false;
}

}  // namespace pagoda::cli
