// `pagoda top`: the cluster as its coordinator sees it, drawn anew each second; `--once` prints one picture.
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>

#include "cli/admin_client.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/config.h"

namespace pagoda::cli {
namespace {

std::string Bar(double share, int width) {
  const int full = static_cast<int>(std::min(std::max(share, 0.0), 1.0) * width + 0.5);
  return std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(width - full), '.');
}

std::string Percent(double part, double whole) {
  return whole <= 0 ? "-" : absl::StrCat(static_cast<int>(100 * part / whole + 0.5), "%");
}

std::string Milliseconds(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f", value);
  return text;
}

std::string DeploymentTable(const v1::ClusterState& state) {
  std::vector<std::vector<std::string>> rows = {{"DEPLOYMENT", "STATE", "READY", "MAX LEN", "MESSAGE"}};
  for (const v1::Deployment& deployment : state.deployments()) {
    rows.push_back({deployment.spec().name(), NameOf(deployment.state()),
                    absl::StrCat(deployment.replicas_ready(), "/", deployment.spec().replicas()),
                    std::to_string(deployment.max_model_len()), deployment.message()});
  }
  return RenderTable(rows);
}

std::string PipelineTable(const v1::ClusterState& state) {
  std::vector<std::vector<std::string>> rows = {{"PIPELINE", "DEPLOYMENT", "STATE", "EPOCH", "RUNNING", "WAITING",
                                                 "KV", "", "IN tok/s", "OUT tok/s", "PREFIX HIT", "PREEMPTED"}};
  for (const v1::PipelineState& pipeline : state.pipelines()) {
    const double used = pipeline.blocks_used();
    const double total = std::max(pipeline.blocks_total(), 1);
    rows.push_back({std::to_string(pipeline.id()), pipeline.deployment(), pipeline.state(),
                    std::to_string(pipeline.epoch()), std::to_string(pipeline.running()),
                    std::to_string(pipeline.waiting()), Percent(used, total), Bar(used / total, 10),
                    HumanNumber(pipeline.prompt_tokens_per_s()), HumanNumber(pipeline.output_tokens_per_s()),
                    Percent(static_cast<double>(pipeline.prefix_hit_tokens()),
                            static_cast<double>(pipeline.prefix_query_tokens())),
                    std::to_string(pipeline.preemptions())});
  }
  return RenderTable(rows);
}

std::string WorkerTable(const v1::ClusterState& state) {
  std::vector<std::vector<std::string>> rows = {{"WORKER", "HOST", "STATE", "PIPELINE", "STAGE", "RANK", "LAYERS",
                                                 "LOADED", "WEIGHTS", "KV", "STEP ms", "WAIT ms", "SEEN ms"}};
  for (const v1::WorkerState& worker : state.workers()) {
    const bool placed = worker.pipeline() != 0;
    const auto if_placed = [&](std::string text) { return placed ? text : std::string("-"); };
    rows.push_back({worker.name(), worker.host(), worker.state(), if_placed(std::to_string(worker.pipeline())),
                    if_placed(std::to_string(worker.stage())), if_placed(std::to_string(worker.rank())),
                    if_placed(absl::StrCat(worker.layer_begin(), "-", worker.layer_end() - 1)),
                    if_placed(absl::StrCat(static_cast<int>(worker.load_progress() * 100), "%")),
                    if_placed(HumanBytes(static_cast<double>(worker.weights_bytes()))),
                    if_placed(HumanBytes(static_cast<double>(worker.kv_bytes()))),
                    if_placed(Milliseconds(worker.step_ms())), if_placed(Milliseconds(worker.wait_ms())),
                    std::to_string(static_cast<int>(worker.heartbeat_age_ms()))});
  }
  return RenderTable(rows);
}

std::string Picture(const v1::ClusterState& state) {
  return absl::StrCat("pagoda ", state.version(), "  coordinator ", state.coordinator(),
                      state.leader() ? " (leader)" : "", "\n\n", DeploymentTable(state), "\n", PipelineTable(state),
                      "\n", WorkerTable(state));
}

// Keys as they are pressed, and the screen as it was when this ends.
class RawTerminal {
 public:
  RawTerminal() : active_(IsTerminal(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (active_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    std::cout << "\033[?1049h\033[?25l";
  }
  ~RawTerminal() {
    std::cout << "\033[?25h\033[?1049l" << std::flush;
    if (active_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  // True when q or Ctrl-C was pressed within the time.
  bool WaitForQuit(int timeout_ms) {
    pollfd input{active_ ? STDIN_FILENO : -1, POLLIN, 0};
    if (poll(&input, 1, timeout_ms) < 0) return true;
    char key = 0;
    return (input.revents & (POLLIN | POLLHUP)) != 0 && (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q');
  }

 private:
  termios before_{};
  const bool active_;
};

volatile sig_atomic_t interrupted = 0;

}  // namespace

int RunTop(int argc, const char* const* argv) {
  CLI::App app("Shows deployments, pipelines and workers of a cluster; q ends it.", "pagoda top");
  std::string coordinators = kDefaultCoordinator;
  std::string tls;
  bool once = false;
  int interval_ms = 1000;
  app.add_option("--coordinators", coordinators, "host:port[,host:port]");
  app.add_option("--tls", tls, kTlsHelp);
  app.add_option("--interval-ms", interval_ms, "between two pictures")->check(CLI::Range(100, 3'600'000));
  app.add_flag("--once", once, "print one picture and end");
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;

  AdminClient admin(coordinators, tls);
  auto state = admin.GetCluster();
  if (!state.ok()) return Fail(state.status());
  if (once || !IsTerminal(STDOUT_FILENO)) {
    std::cout << Picture(*state);
    return kExitOk;
  }
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  RawTerminal terminal;
  while (interrupted == 0) {
    const std::string text = state.ok() ? Picture(*state) : absl::StrCat(state.status().message(), "\n");
    std::cout << "\033[H\033[J" << text << std::flush;
    if (terminal.WaitForQuit(interval_ms)) break;
    state = admin.GetCluster();
  }
  return kExitOk;
}

}  // namespace pagoda::cli
