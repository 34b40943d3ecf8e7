// Virtual time for a simulated cluster: a heap of events under a seed, and processes that can be killed, stopped and started.
// Everything runs on the caller's thread, one event at a time; the same seed gives the same run to the last event.
// An event belongs to one life of a process: it is dropped when that life is over, and waits while the process is stopped.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace pagoda::sim {

inline constexpr int64_t kUs = 1'000;
inline constexpr int64_t kMs = 1'000'000;
inline constexpr int64_t kSecond = 1'000'000'000;

using ProcessId = int;

// One life of one process.
struct Life {
  ProcessId process = -1;
  uint64_t incarnation = 0;
  bool operator==(const Life&) const = default;
};

class World {
 public:
  using Event = std::function<void()>;

  explicit World(uint64_t seed) : random_(seed) {}

  int64_t now_ns() const { return now_ns_; }
  // What a process reads from its own clock: every process started counting at another moment.
  int64_t LocalNow(ProcessId process) const { return now_ns_ + processes_.at(process).clock_offset_ns; }

  // Uniform over [low, high].
  int64_t Uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  bool Chance(double probability) { return std::uniform_real_distribution<double>(0, 1)(random_) < probability; }
  uint64_t Bits() { return random_(); }

  ProcessId AddProcess(std::string name, int host);
  const std::string& NameOf(ProcessId process) const { return processes_.at(process).name; }
  int HostOf(ProcessId process) const { return processes_.at(process).host; }

  // A new life; the process must be down.
  Life Start(ProcessId process);
  void Kill(ProcessId process);
  void Stop(ProcessId process);      // as SIGSTOP: its events wait
  void Continue(ProcessId process);  // as SIGCONT: they run now, in order
  bool IsUp(ProcessId process) const { return processes_.at(process).up; }
  bool IsStopped(ProcessId process) const { return processes_.at(process).stopped; }
  Life LifeOf(ProcessId process) const { return {process, processes_.at(process).incarnation}; }  // the last one
  bool Lives(Life life) const {
    const Process& process = processes_.at(life.process);
    return process.up && process.incarnation == life.incarnation;
  }

  void After(Life life, int64_t delay_ns, Event event);
  void After(int64_t delay_ns, Event event);  // of the world's own: always runs

  // Runs the next event; false when there is none before `until_ns` (then it is that time).
  bool Step(int64_t until_ns);

  // An invariant does not hold: the first one is kept, with what led to it.
  void Violate(std::string what);
  bool violated() const { return !violation_.empty(); }
  const std::string& violation() const { return violation_; }
  // What goes wrong once where it can, on purpose: so that the checks are seen to find it (sim_test.cc).
  void Spoil(std::string kind) { spoils_.insert(std::move(kind)); }
  bool TakeSpoil(const std::string& kind) { return spoils_.erase(kind) > 0; }
  void Note(std::string what);      // of the last happenings, for whoever reads a failure
  std::string Story() const;

 private:
  struct Process {
    std::string name;
    int host = 0;
    bool up = false;
    bool stopped = false;
    uint64_t incarnation = 0;
    int64_t clock_offset_ns = 0;
    std::deque<Event> waiting;  // while it is stopped
  };
  struct Entry {
    int64_t at_ns = 0;
    uint64_t order = 0;
    Life life;
    Event event;
  };
  struct Later {
    bool operator()(const Entry& a, const Entry& b) const {
      return std::pair(a.at_ns, a.order) > std::pair(b.at_ns, b.order);
    }
  };

  int64_t now_ns_ = kSecond;
  uint64_t next_order_ = 1;
  std::mt19937_64 random_;
  std::vector<Process> processes_;
  std::priority_queue<Entry, std::vector<Entry>, Later> events_;
  std::string violation_;
  std::set<std::string> spoils_;
  std::deque<std::string> notes_;
};

}  // namespace pagoda::sim
