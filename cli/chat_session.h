// A conversation with a model: its messages so far, and how the next answer is fetched. Owner: one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace pagoda::cli {

struct ChatOptions {
  std::string url;
  std::string grpc;  // not empty: used instead of url
  std::string model;
  std::string system;
  std::optional<int> max_tokens;  // none: what fits in the context
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> seed;
  std::string api_key;
  std::string authority;  // of https and of gRPC with TLS: a file; empty: this machine's
  bool grpc_tls = false;
};

class ChatSession {
 public:
  using OnText = std::function<bool(std::string_view)>;  // false: stop the answer
  struct Message {
    std::string role;
    std::string content;
  };

  // Asks the server for its models when none is named.
  static absl::StatusOr<std::unique_ptr<ChatSession>> Open(const ChatOptions& options);
  virtual ~ChatSession() = default;

  // The question and, once it is there, the answer become part of the conversation; after an error neither does.
  absl::Status Ask(const std::string& question, const OnText& on_text);
  void Reset(const std::string& system);
  void Undo();

  const std::string& model() const { return options_.model; }
  const std::string& system() const { return options_.system; }
  std::string LastStatistics() const;

 protected:
  explicit ChatSession(const ChatOptions& options) : options_(options) { Reset(options.system); }
  virtual absl::Status ChooseModel() = 0;
  virtual absl::Status Stream(const OnText& on_text) = 0;

  ChatOptions options_;
  std::vector<Message> messages_;
  int prompt_tokens_ = 0;
  int output_tokens_ = 0;

 private:
  MonotonicNs asked_ns_ = 0;
  MonotonicNs first_ns_ = 0;
  MonotonicNs last_ns_ = 0;
};

}  // namespace pagoda::cli
