// A coordinator that computes nothing: real gRPC, the real Attach protocol, a fixed answer. Every
// choice c of every request gets the tokens of `answer`, rotated by c, one per step, then the
// model's end token; so a test knows what must come out, whatever is lost on the way. Faults are
// injected by the methods. Thread rule: every method from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "common/ids.h"
#include "common/status.h"

namespace pagoda::fakes {

class FakeCoordinator {
 public:
  struct Options {
    std::string listen = "127.0.0.1:0";
    std::string name = "fake";
    std::string model = "fake-model";
    std::string digest = "fake-digest";
    std::vector<checkpoint::Checkpoint::BundleEntry> bundle;
    int vocabulary = 0;
    std::vector<TokenId> answer;
    TokenId end_token = -1;  // -1: the answer repeats for ever
    int64_t max_model_len = 2048;
    int pipelines = 1;
    std::string follows;  // the address of the one that leads; empty: this one does
    int64_t step_ms = 1;
    int tokens_per_step = 1;  // of each choice, in one message
  };
  static absl::StatusOr<std::unique_ptr<FakeCoordinator>> Start(Options options);
  ~FakeCoordinator();

  int port() const;
  std::string address() const;

  // What a request gets: the token of `choice` at `index`; the end token past the answer.
  TokenId TokenAt(int choice, int index) const;

  void CutStreams();                     // as if this process had died; routers may connect again
  void DropPipeline(uint64_t pipeline);  // gone from the next snapshot on, with what ran there
  void NewEpoch(uint64_t pipeline);      // assembled anew; what ran there is forgotten
  void SetReady(uint64_t pipeline, bool ready);
  void Drain(uint64_t pipeline);  // takes nothing new, only streams that were accepted before
  void SetMaxModelLen(uint64_t pipeline, int64_t tokens);
  void SetNumerics(uint64_t pipeline, const std::string& numerics);
  void SetDigest(uint64_t pipeline, const std::string& digest);  // of its model
  void MoveKv(uint64_t pipeline, uint64_t to);  // it is left: its epoch is closed, and the other one has the KV
  void RefuseNext(int count, absl::StatusCode code, int retry_after_ms);
  void FailNext(int count);  // FINISH_REASON_ERROR instead of a token
  void Pause(bool paused);   // no step is made
  void Lead();               // from here on, instead of the one it followed

  struct Counts {
    int64_t submits = 0;
    int64_t replays = 0;  // with attempt > 1
    int64_t cancels = 0;
    int64_t stops = 0;
    int64_t running = 0;      // choices
    int64_t last_prompt = 0;  // tokens
    int64_t last_deadline_ms = 0;
    uint64_t last_pipeline = 0;
    std::vector<int64_t> submits_by_pipeline;
  };
  Counts counts() const;

  struct State;

 private:
  explicit FakeCoordinator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Options with the text bundle of the model file `path` and `answer` in its tokens.
absl::StatusOr<FakeCoordinator::Options> OptionsForModel(const std::string& path,
                                                         const std::string& answer);
// The default model's file, or "" when this machine does not have it.
std::string DefaultModelPath();

}  // namespace pagoda::fakes
