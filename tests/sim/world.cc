#include "tests/sim/world.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status.h"

namespace pagoda::sim {
namespace {

constexpr size_t kNotesKept = 120;

}  // namespace

ProcessId World::AddProcess(std::string name, int host) {
  Process process;
  process.name = std::move(name);
  process.host = host;
  process.clock_offset_ns = Uniform(0, 100'000) * kSecond;
  processes_.push_back(std::move(process));
  return static_cast<ProcessId>(processes_.size()) - 1;
}

Life World::Start(ProcessId id) {
  Process& process = processes_.at(id);
  PAGODA_CHECK(!process.up);
  process.up = true;
  process.stopped = false;
  ++process.incarnation;
  return {id, process.incarnation};
}

void World::Kill(ProcessId id) {
  Process& process = processes_.at(id);
  process.up = false;
  process.stopped = false;
  process.waiting.clear();
}

void World::Stop(ProcessId id) {
  if (processes_.at(id).up) processes_.at(id).stopped = true;
}

void World::Continue(ProcessId id) {
  Process& process = processes_.at(id);
  if (!process.up || !process.stopped) return;
  process.stopped = false;
  const Life life{id, process.incarnation};
  std::deque<Event> waiting = std::move(process.waiting);
  process.waiting.clear();
  for (Event& event : waiting) After(life, 0, std::move(event));
}

void World::After(Life life, int64_t delay_ns, Event event) {
  events_.push({.at_ns = now_ns_ + delay_ns, .order = next_order_++, .life = life, .event = std::move(event)});
}

void World::After(int64_t delay_ns, Event event) { After(Life{}, delay_ns, std::move(event)); }

bool World::Step(int64_t until_ns) {
  if (events_.empty() || events_.top().at_ns > until_ns) {
    now_ns_ = until_ns;
    return false;
  }
  Entry entry = std::move(const_cast<Entry&>(events_.top()));
  events_.pop();
  now_ns_ = entry.at_ns;
  if (entry.life.process >= 0) {
    if (!Lives(entry.life)) return true;
    Process& process = processes_.at(entry.life.process);
    if (process.stopped) {
      process.waiting.push_back(std::move(entry.event));
      return true;
    }
  }
  entry.event();
  return true;
}

void World::Violate(std::string what) {
  if (!violation_.empty()) return;
  violation_ = std::move(what);
  Note(violation_);
}

void World::Note(std::string what) {
  notes_.push_back(absl::StrFormat("%10.3f ms  %s", static_cast<double>(now_ns_) / kMs, what));
  if (notes_.size() > kNotesKept) notes_.pop_front();
}

std::string World::Story() const { return absl::StrJoin(notes_, "\n"); }

}  // namespace pagoda::sim
