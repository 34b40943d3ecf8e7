// Prompts that were alone in flight when their pipeline died, twice: refused for a while, also when a client sends them anew.
// Bounded in number and time. A plain state machine, owned by the scheduler.
#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "common/ids.h"
#include "common/limits.h"

namespace pagoda::coordinator {

class Quarantine {
 public:
  static uint64_t Fingerprint(std::span<const TokenId> prompt) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const TokenId token : prompt) {
      for (int shift = 0; shift < 32; shift += 8) {
        hash ^= (static_cast<uint32_t>(token) >> shift) & 0xff;
        hash *= 0x100000001b3ULL;
      }
    }
    return hash;
  }
  void Add(uint64_t fingerprint, int64_t now_ns) {
    if (entries_.size() >= static_cast<size_t>(limits::kMaxQuarantinedPrompts)) entries_.pop_front();
    entries_.push_back({fingerprint, now_ns + limits::kQuarantineMs * 1'000'000});
  }
  bool Holds(uint64_t fingerprint, int64_t now_ns) {
    while (!entries_.empty() && entries_.front().until_ns <= now_ns) entries_.pop_front();
    for (const Entry& entry : entries_) {
      if (entry.fingerprint == fingerprint) return true;
    }
    return false;
  }

 private:
  struct Entry {
    uint64_t fingerprint;
    int64_t until_ns;
  };
  std::deque<Entry> entries_;
};

}  // namespace pagoda::coordinator
