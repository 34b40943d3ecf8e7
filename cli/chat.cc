// `pagoda chat`: a conversation, line by line, over HTTP (server-sent events) or gRPC. Works with input from a pipe too: then
// only the answers are printed.
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/chat_session.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/config.h"

namespace pagoda::cli {
namespace {

volatile sig_atomic_t interrupted = 0;

constexpr const char* kHelp =
    "  /reset   forget the conversation\n"
    "  /undo    forget the last question and its answer\n"
    "  /system TEXT   begin again with this system message\n"
    "  /stats   tokens and times of the last answer\n"
    "  /quit    end (so does Ctrl-D); Ctrl-C stops an answer\n";

// True when `line` was a command.
bool Command(const std::string& line, ChatSession& session, bool& quit) {
  if (line.empty() || line[0] != '/') return false;
  if (line == "/quit" || line == "/exit") {
    quit = true;
  } else if (line == "/reset") {
    session.Reset(session.system());
    std::cout << "forgotten" << std::endl;
  } else if (line == "/undo") {
    session.Undo();
  } else if (line.starts_with("/system ")) {
    session.Reset(line.substr(8));
  } else if (line == "/stats") {
    std::cout << session.LastStatistics() << std::endl;
  } else {
    std::cout << kHelp;
  }
  return true;
}

void InstallInterrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: reading a line is interrupted too
}

int Converse(ChatSession& session) {
  const bool terminal = IsTerminal(STDIN_FILENO);
  if (terminal) std::cout << "talking to " << session.model() << "; /help tells the commands\n";
  int exit_status = kExitOk;
  for (std::string line;;) {
    if (terminal) std::cout << "\n> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    bool quit = false;
    if (line.empty() || Command(line, session, quit)) {
      if (quit) break;
      continue;
    }
    interrupted = 0;
    const absl::Status status = session.Ask(line, [&](std::string_view text) {
      std::cout << text << std::flush;
      return interrupted == 0;
    });
    std::cout << std::endl;
    if (!status.ok()) exit_status = Fail(status);
  }
  if (terminal) std::cout << std::endl;
  return exit_status;
}

}  // namespace

int RunChat(int argc, const char* const* argv) {
  CLI::App app("A conversation with a served model.", "pagoda chat");
  ChatOptions options;
  options.url = std::string("http://") + kDefaultHttp;
  app.add_option("--url", options.url, "a router's HTTP address");
  app.add_option("--grpc", options.grpc, "a router's gRPC address, host:port; then it is used instead of HTTP");
  app.add_option("--model", options.model, "default: the first one served");
  app.add_option("--system", options.system, "system message");
  app.add_option("--max-tokens", options.max_tokens, "longest answer; default: what fits in the context")->check(CLI::PositiveNumber);
  app.add_option("--temperature", options.temperature, "0 is greedy; default: the model's own");
  app.add_option("--top-p", options.top_p, "default: the model's own");
  app.add_option("--seed", options.seed, "makes sampling repeatable");
  app.add_option("--api-key", options.api_key, "sent as a bearer token; better in the environment, where nobody else reads it")->envname("PAGODA_API_KEY");
  app.add_option("--ssl-ca-certs", options.authority, kAuthorityHelp);
  app.add_flag("--grpc-tls", options.grpc_tls, "speak TLS to --grpc");
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  auto session = ChatSession::Open(options);
  if (!session.ok()) return Fail(session.status());
  InstallInterrupt();
  return Converse(**session);
}

}  // namespace pagoda::cli
