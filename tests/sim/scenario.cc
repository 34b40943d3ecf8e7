#include "tests/sim/scenario.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <random>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/sim/cluster.h"

namespace pagoda::sim {
namespace {

constexpr int64_t kSettleNs = 150 * kSecond;

absl::Status Bad(const std::string& line, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("scenario line '", line, "': ", why));
}

struct Expectation {
  std::string what;
  bool at_most = false;
  int64_t bound = 0;
};

struct Fault {
  int64_t at_ns = 0;
  std::vector<std::string> words;  // after "at N"
};

struct Script {
  ClusterOptions options;
  std::vector<Fault> faults;
  std::vector<Expectation> expectations;
};

absl::Status ReadOption(const std::string& line, const std::string& word, ClusterOptions& options) {
  const std::vector<std::string> parts = absl::StrSplit(word, '=');
  if (parts.size() != 2) return Bad(line, absl::StrCat("'", word, "' is not name=value"));
  if (parts[0] == "tensor_parallel") {
    options.tensor_parallel.clear();
    for (const auto piece : absl::StrSplit(parts[1], ',')) {
      int size = 0;
      if (!absl::SimpleAtoi(piece, &size)) return Bad(line, "tensor_parallel");
      options.tensor_parallel.push_back(size);
    }
    return absl::OkStatus();
  }
  int64_t value = 0;
  if (!absl::SimpleAtoi(parts[1], &value)) return Bad(line, absl::StrCat("'", parts[1], "' is not a number"));
  const std::map<std::string, int*> ints = {
      {"hosts", &options.hosts},     {"coordinators", &options.coordinators}, {"routers", &options.routers},
      {"stages", &options.stages},   {"replicas", &options.replicas},         {"spares", &options.spares},
      {"blocks", &options.blocks},   {"requests", &options.requests},         {"max_sequences", &options.max_sequences},
      {"step_rows", &options.max_step_rows}, {"repeating", &options.repeating},
      {"resumable", &options.resumable},
      {"pace", &options.pace}};
  const auto found = ints.find(parts[0]);
  if (found != ints.end()) {
    *found->second = static_cast<int>(value);
  } else if (parts[0] == "seed") {
    options.seed = static_cast<uint64_t>(value);
  } else if (parts[0] == "replay") {
    options.replay_bytes = value != 0 ? 1 << 20 : 0;
  } else if (parts[0] == "arrivals") {
    options.arrivals_ns = value * kMs;
  } else if (parts[0] == "rest") {
    options.rest_ns = value * kMs;
  } else {
    return Bad(line, absl::StrCat("there is no option '", parts[0], "'"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Script> Parse(const std::string& text) {
  Script script;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line = line.substr(0, line.find('#'));
    std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
    if (words.empty()) continue;
    if (words[0] == "cluster") {
      for (size_t i = 1; i < words.size(); ++i) {
        if (const absl::Status status = ReadOption(line, words[i], script.options); !status.ok()) return status;
      }
    } else if (words[0] == "expect" && words.size() == 4 && (words[2] == ">=" || words[2] == "<=")) {
      Expectation expectation{.what = words[1], .at_most = words[2] == "<="};
      if (!absl::SimpleAtoi(words[3], &expectation.bound)) return Bad(line, "what it is compared with is not a number");
      script.expectations.push_back(expectation);
    } else if (words[0] == "at" && words.size() >= 4) {
      int64_t at_ms = 0;
      if (!absl::SimpleAtoi(words[1], &at_ms)) return Bad(line, "the time is not a number of milliseconds");
      script.faults.push_back({at_ms * kMs, {words.begin() + 2, words.end()}});
    } else {
      return Bad(line, "not known");
    }
  }
  return script;
}

// The number behind `key`, in milliseconds as nanoseconds.
absl::StatusOr<int64_t> Behind(const Fault& fault, const std::string& key) {
  const auto found = std::ranges::find(fault.words, key);
  int64_t value = 0;
  if (found == fault.words.end() || found + 1 == fault.words.end() || !absl::SimpleAtoi(*(found + 1), &value)) {
    return absl::InvalidArgumentError(absl::StrCat("a fault '", fault.words[0], "' needs '", key, " NUMBER'"));
  }
  return value;
}

// Schedules it; returns when it is over.
absl::StatusOr<int64_t> Schedule(Cluster& cluster, const Fault& fault) {
  World& world = cluster.world();
  const absl::StatusOr<int64_t> lasts_ms = Behind(fault, "for");
  if (!lasts_ms.ok()) return lasts_ms.status();
  const int64_t lasts = *lasts_ms * kMs;
  const std::string& what = fault.words[0];
  const int64_t end = fault.at_ns + lasts;
  if (what == "spoil") {
    world.After(fault.at_ns, [&world, kind = fault.words[1]] { world.Spoil(kind); });
  } else if (what == "kill" || what == "drain" || what == "pause" || what == "slow") {
    const ProcessId process = cluster.Find(fault.words[1]);
    if (process < 0) return absl::InvalidArgumentError(absl::StrCat("there is no process '", fault.words[1], "'"));
    if (what == "kill") {
      world.After(fault.at_ns, [&cluster, process, lasts] { cluster.Kill(process, lasts); });
    } else if (what == "drain") {
      world.After(fault.at_ns, [&cluster, process, lasts] { cluster.Drain(process, lasts); });
    } else if (what == "pause") {
      world.After(fault.at_ns, [&cluster, process, lasts] { cluster.Pause(process, lasts); });
    } else {
      const absl::StatusOr<int64_t> factor = Behind(fault, "by");
      if (!factor.ok()) return factor.status();
      world.After(fault.at_ns, [&cluster, process, factor = static_cast<int>(*factor)] { cluster.Slow(process, factor); });
      world.After(end, [&cluster, process] { cluster.Slow(process, 1); });
    }
  } else if (what == "cut" && fault.words.size() >= 5) {
    int a = 0, b = 0;
    if (!absl::SimpleAtoi(fault.words[1], &a) || !absl::SimpleAtoi(fault.words[2], &b)) return absl::InvalidArgumentError("cut needs two hosts");
    world.After(fault.at_ns, [&cluster, a, b] {
      cluster.world().Note(absl::StrCat("host ", a, " and host ", b, " are cut off from each other"));
      cluster.network().Cut(a, b);
    });
    world.After(end, [&cluster, a, b] { cluster.network().Mend(a, b); });
  } else if (what == "apply") {
    int bits = 0;
    if (!absl::SimpleAtoi(fault.words[1], &bits)) return absl::InvalidArgumentError("apply needs the activation bits");
    world.After(fault.at_ns, [&cluster, bits] { cluster.Apply(bits); });
  } else if (what == "store") {
    world.After(fault.at_ns, [&cluster] {
      cluster.world().Note("the store is down");
      cluster.store().SetReachable(false);
    });
    world.After(end, [&cluster] { cluster.store().SetReachable(true); });
  } else if (what == "packets") {
    NetworkFaults faults = cluster.network().faults();
    for (const std::string& word : fault.words) {
      const std::vector<std::string> parts = absl::StrSplit(word, '=');
      if (parts.size() != 2) continue;
      double value = 0;
      if (!absl::SimpleAtod(parts[1], &value)) return absl::InvalidArgumentError(absl::StrCat("packets: '", word, "'"));
      (parts[0] == "loss" ? faults.packet_loss : faults.packet_twice) = value;
    }
    world.After(fault.at_ns, [&cluster, faults] { cluster.network().faults() = faults; });
    world.After(end, [&cluster] { cluster.network().faults() = NetworkFaults(); });
  } else {
    return absl::InvalidArgumentError(absl::StrCat("there is no fault '", what, "'"));
  }
  return end;
}

}  // namespace

std::string RandomScenario(uint64_t seed) {
  std::mt19937_64 random(seed * 0x9e3779b97f4a7c15ULL + 1);
  const auto uniform = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  const int stages = static_cast<int>(uniform(1, 4));
  const int replicas = static_cast<int>(uniform(1, 2));
  const int coordinators = static_cast<int>(uniform(1, 3));
  const int routers = static_cast<int>(uniform(1, 2));
  const int spares = static_cast<int>(uniform(0, 1));
  std::vector<int> parallel;
  int workers = 0;
  for (int s = 0; s < stages; ++s) {
    parallel.push_back(uniform(0, 3) == 0 ? 2 : 1);
    workers += parallel.back();
  }
  workers = workers * replicas + spares;
  std::string text = absl::StrCat("cluster seed=", seed, " stages=", stages, " tensor_parallel=");
  for (size_t i = 0; i < parallel.size(); ++i) absl::StrAppend(&text, i == 0 ? "" : ",", parallel[i]);
  absl::StrAppend(&text, " replicas=", replicas, " coordinators=", coordinators, " routers=", routers, " spares=", spares,
                  " blocks=", uniform(18, 40), " step_rows=", uniform(8, 24), " max_sequences=", uniform(2, 8), " requests=", uniform(8, 24),
                  " replay=", uniform(0, 3) == 0 ? 0 : 1, " arrivals=", uniform(500, 6000),
                  " repeating=", uniform(0, 1) == 0 ? 0 : uniform(10, 100), " resumable=", uniform(0, 2) == 0 ? 0 : uniform(10, 100), " pace=", uniform(0, 1) == 0 ? 1 : uniform(2, 20));
  // So long that nobody may come back any more: then no log may be left.
  absl::StrAppend(&text, seed % 8 == 1 ? " rest=75000\nexpect kept_streams <= 0\n" : "\n");
  const auto any = [&](const char* kind, int count) { return absl::StrCat(kind, "-", uniform(0, count - 1)); };
  const auto drain = [&] {
    const int64_t which = uniform(0, 3);
    return absl::StrCat("drain ", which <= 1 ? any("worker", workers) : which == 2 ? any("coordinator", coordinators) : any("router", routers),
                        " for ", uniform(100, 4000), "\n");
  };
  // A rollout: nothing fails, and so nobody may be blamed.
  const bool rollout = seed % 8 == 0;
  if (rollout) absl::StrAppend(&text, "expect faults <= 0\nexpect deaths <= 0\nexpect cut <= 0\n");
  for (int64_t applies = seed % 3 == 0 ? uniform(1, 3) : 0, bits = 12; applies > 0; --applies, bits = 20 - bits) {
    absl::StrAppend(&text, "at ", 10'000 / applies + uniform(0, 1500), " apply ", bits, " for 0\n");
  }
  for (int64_t f = uniform(0, 8); f > 0; --f) {
    const std::string at = absl::StrCat("at ", uniform(500, 12'000), " ");
    if (rollout) {
      absl::StrAppend(&text, at, drain());
      continue;
    }
    switch (uniform(0, 10)) {
      case 10:
        absl::StrAppend(&text, at, drain());
        break;
      case 0: case 1: case 2:
        absl::StrAppend(&text, at, "kill ", any("worker", workers), " for ", uniform(100, 4000), "\n");
        break;
      case 3:
        absl::StrAppend(&text, at, "pause ", any("worker", workers), " for ", uniform(50, 8000), "\n");
        break;
      case 4:
        absl::StrAppend(&text, at, "kill ", any("coordinator", coordinators), " for ", uniform(100, 4000), "\n");
        break;
      case 5:
        absl::StrAppend(&text, at, "pause ", any("coordinator", coordinators), " for ", uniform(50, 9000), "\n");
        break;
      case 6:
        absl::StrAppend(&text, at, uniform(0, 1) == 0 ? "kill " : "pause ", any("router", routers), " for ", uniform(100, 3000), "\n");
        break;
      case 7: {
        const int64_t a = uniform(0, 2);
        absl::StrAppend(&text, at, "cut ", a, " ", (a + uniform(1, 2)) % 3, " for ", uniform(100, 9000), "\n");
        break;
      }
      case 8:
        absl::StrAppend(&text, at, "store down for ", uniform(100, 8000), "\n");
        break;
      default:
        if (uniform(0, 1) == 0) {
          absl::StrAppend(&text, at, "packets loss=0.00", uniform(0, 9), " twice=0.0", uniform(0, 9), " for ", uniform(500, 4000), "\n");
        } else {
          absl::StrAppend(&text, at, "slow ", any("worker", workers), " by ", uniform(2, 200), " for ", uniform(500, 5000), "\n");
        }
    }
  }
  return text;
}

absl::StatusOr<ScenarioResult> RunScenario(const std::string& text) {
  const absl::StatusOr<Script> script = Parse(text);
  if (!script.ok()) return script.status();
  Cluster cluster(script->options);
  int64_t over_ns = 2 * kSecond + script->options.arrivals_ns;
  for (const Fault& fault : script->faults) {
    const absl::StatusOr<int64_t> end = Schedule(cluster, fault);
    if (!end.ok()) return end.status();
    over_ns = std::max(over_ns, *end);
  }
  cluster.RunUntil(cluster.world().now_ns() + over_ns + kSecond);
  if (!cluster.world().violated()) cluster.Settle(kSettleNs);
  const std::map<std::string, int64_t> counts = cluster.Counts();
  for (const Expectation& expectation : script->expectations) {
    const auto found = counts.find(expectation.what);
    if (found == counts.end()) return absl::InvalidArgumentError(absl::StrCat("nothing is counted as '", expectation.what, "'"));
    const bool holds = expectation.at_most ? found->second <= expectation.bound : found->second >= expectation.bound;
    if (!holds) {
      cluster.world().Violate(absl::StrCat(expectation.what, " is ", found->second, ", expected at ",
                                           expectation.at_most ? "most " : "least ", expectation.bound));
    }
  }
  ScenarioResult result{.violation = cluster.world().violation(), .story = cluster.world().Story(), .summary = "", .counts = counts};
  for (const auto& [name, count] : counts) absl::StrAppend(&result.summary, name, " ", count, "  ");
  return result;
}

}  // namespace pagoda::sim
