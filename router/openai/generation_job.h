// One /v1/completions or /v1/chat/completions request under way: a generation per prompt, gathered
// into one answer or streamed as server-sent events. Event loop's thread; kept alive by its sinks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/dispatcher.h"
#include "router/openai/exchange.h"
#include "router/openai/logprobs.h"
#include "router/openai/prepare.h"
#include "router/request_trace.h"
#include "router/stream_position.h"

namespace pagoda::router::openai {

class GenerationJob : public std::enable_shared_from_this<GenerationJob> {
 public:
  GenerationJob(std::shared_ptr<Exchange> exchange, PreparedGeneration prepared,
                Dispatcher* dispatcher, Metrics* metrics, Tracer* tracer, int64_t created_unix_s);

  // Of a stream that may outlive this router.
  struct Resumable {
    std::string router_state;                // for another router
    std::optional<StreamPosition> position;  // its client comes back with it; else it begins here
    FoundStream found;                       // what coordinators know of it
  };
  void MakeResumable(Resumable resumable);

  // Submits everything, or answers with an error.
  void Start(MonotonicNs deadline_ns);

 private:
  class Sink;
  struct Choice {
    bool role_sent = false;
    bool ids_sent = false;
    int tokens_done = 0;  // of the position
    std::string text;
    std::vector<TokenId> tokens;
    std::vector<PositionLogprobs> logprobs;
    FinishReason finish = FinishReason::kNone;
    std::optional<TokenId> stop_token;
    std::optional<std::string> stop_string;
    int64_t text_offset = 0;
  };
  struct Part {  // of one prompt
    RequestId id;
    std::vector<TokenId> prompt;
    std::vector<PositionLogprobs> prompt_logprobs;
    int64_t cached_tokens = 0;
    int64_t output_tokens = 0;
    bool done = false;
  };

  void OnDelta(int prompt, const Session& session, ChoiceDelta delta);
  void OnStepEnd();
  void OnDone(int prompt, const Session& session);
  void OnError(const absl::Status& status);
  void OnHandOver(const absl::Status& status);
  void OnClientGone(http::Response::CloseReason reason);

  // What is known of the prompt's choices, cut to what the client has.
  void FillKnown(int prompt, GenerationRequest& request);
  void SkipTokens(int choice, const std::vector<TokenId>& tokens);
  void SendTail();

  // What comes before a choice's first tokens, once.
  void StreamLead(int prompt, const Session& session, int choice);
  void StreamDelta(int prompt, ChoiceDelta delta);
  // Opens an event up to its choice's own fields: data: {...,"choices":[{"index":N
  void OpenChunk(int choice);
  void CloseChunk(bool with_usage);
  void CloseChunkAfter(bool with_usage);  // the choices are closed already
  void CloseEvent();
  void StreamRole(int choice);
  void StreamEcho(int prompt, int choice);
  void SendWhole();
  // As OpenAI's API says it: what was cancelled or failed never gets that far.
  static std::string_view FinishName(FinishReason reason) { return reason == FinishReason::kLength ? "length" : "stop"; }
  void AppendChoice(std::string& body, size_t choice);
  void AppendCompletionChoice(std::string& body, size_t choice);
  void AppendUsage(std::string& out) const;
  void AppendStopReason(std::string& out, const ChoiceDelta& delta) const;
  void AppendStopReason(std::string& out, const std::optional<TokenId>& token,
                        const std::optional<std::string>& text) const;
  void CancelRest();
  void EndTrace(int http_status, std::string error);
  std::string ChunkHead() const;
  bool chat() const { return prepared_.input.endpoint == Endpoint::kChat; }
  LogprobStyle style() const;

  std::shared_ptr<Exchange> exchange_;
  PreparedGeneration prepared_;
  Dispatcher* const dispatcher_;
  Metrics* const metrics_;
  const int64_t created_unix_s_;
  RequestTrace trace_;
  const RequestId first_id_ = RequestId::Random();  // of the first prompt, and of the answer: logs have it
  std::string answer_id_;
  std::string model_;
  std::shared_ptr<const text::TextModel> text_;  // outlives the session
  std::string chunk_head_;                       // the same in every chunk
  std::string pending_;                          // events of this step
  int per_prompt_ = 1;
  std::vector<Part> parts_;
  std::vector<Choice> choices_;
  std::optional<Resumable> resumable_;
  StreamPosition position_;  // of a resumable stream: what the event being written brings the client to
  size_t unfinished_ = 0;
  bool streaming_ = false;  // the head of the stream is sent
  bool over_ = false;
};

}  // namespace pagoda::router::openai
