// What the commands print: progress that rewrites one line on a terminal and adds plain lines elsewhere, numbers with
// units, tables. Owner: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace pagoda::cli {

bool IsTerminal(int descriptor);
int TerminalColumns();

// One activity. On a terminal Update rewrites its line; elsewhere it prints when `text` changed and the last line is
// `plain_interval_ms` old. Finish leaves one last line.
class Progress {
 public:
  explicit Progress(int plain_interval_ms = 5000);
  ~Progress();
  void Update(std::string_view text);
  void Finish(std::string_view text);
  void Clear();  // leaves nothing; for before other output

 private:
  const bool terminal_;
  const int64_t plain_interval_ns_;
  MonotonicNs last_ns_ = 0;
  std::string shown_;
};

std::string HumanBytes(double bytes);    // "1.5 GiB"
std::string HumanNumber(double value);   // three significant digits, "12.3k"

// The first row is the heading. Columns are as wide as their widest cell; columns of numbers are right-aligned.
std::string RenderTable(const std::vector<std::vector<std::string>>& rows);

}  // namespace pagoda::cli
