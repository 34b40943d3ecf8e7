// Every limit of the system, in one place, with what relates them. A request over a limit is refused with the limit's
// name before anything is allocated for it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pagoda::limits {

// What one request may ask for (router, checked again by the coordinator).
inline constexpr size_t kMaxBodyBytes = 8u << 20;
inline constexpr size_t kMaxHeaderBytes = 32u << 10;
inline constexpr int kMaxHeaderCount = 100;
inline constexpr int kMaxJsonDepth = 64;
inline constexpr int kMaxPromptsPerRequest = 64;       // `prompt` as an array
inline constexpr int kMaxChoices = 32;                 // n
inline constexpr int64_t kMaxPromptTokens = 1 << 20;
inline constexpr int64_t kMaxTotalNewTokens = 1 << 20;  // prompts x n x max_tokens
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 1024;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kMaxBadWords = 256;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxPromptLogprobs = 20;
inline constexpr size_t kMaxRequestIdBytes = 128;      // X-Request-Id

// Connections and queues.
inline constexpr int kMaxConnections = 4096;           // per router
inline constexpr int kMaxRequestsInFlight = 4096;      // per router
inline constexpr int kMaxQueuedRequests = 2048;        // per pipeline: inbox and waiting together
inline constexpr int64_t kMaxQueueWaitMs = 60'000;     // predicted to wait longer: refused at once
inline constexpr int kMaxTenants = 4096;               // with something queued at one pipeline
inline constexpr int64_t kHoldMs = 15'000;             // a router keeps new requests while all pipelines of a model are lost
inline constexpr int kHeaderTimeoutMs = 10'000;
inline constexpr int kBodyTimeoutMs = 30'000;
inline constexpr int kIdleTimeoutMs = 75'000;
inline constexpr int kMaxRequestMs = 3'600'000;
inline constexpr size_t kMaxUnreadStreamBytes = 4u << 20;  // a reader slower than this is cut
inline constexpr size_t kMaxQueuedSpans = 8192;       // for the trace collector, per process; more are dropped
inline constexpr size_t kMaxSpansPerBatch = 512;
inline constexpr int kMaxPageViewers = 32;             // open status pages per router
inline constexpr int kMaxKeptEvents = 100;             // of a coordinator, for the status page
inline constexpr int kFigureSeconds = 300;             // history of the status page's charts

// Requests that may kill what they run on.
inline constexpr int kTrialTokens = 4;                 // a suspect that got so much further alone is cleared
inline constexpr int64_t kQuarantineMs = 600'000;      // a prompt that died alone twice is refused for so long
inline constexpr int kMaxQuarantinedPrompts = 64;      // per pipeline

// Streams that outlive their router (kept in a coordinator's memory).
inline constexpr int64_t kResumeMs = 60'000;           // a client may come back within
inline constexpr int kMaxResumableStreams = 8192;
inline constexpr size_t kMaxResumableBytes = 256u << 20;
inline constexpr int64_t kResumeQueryMs = 3'000;       // a router waits so long for coordinators to say what they know

// A pipeline.
inline constexpr int kMaxStages = 64;
inline constexpr int kMaxTensorParallel = 64;
inline constexpr int kBlockTokens = 16;                // tokens of one KV block
inline constexpr int kMaxSlots = 1024;                 // running sequences
inline constexpr int kMaxStepRows = 8192;              // token rows in one step
inline constexpr int kMaxDraftTokens = 15;              // guessed for one sequence in one step
inline constexpr int kDefaultStepRows = 256;           // --max-num-batched-tokens
inline constexpr size_t kMaxGrpcMessageBytes = 64u << 20;
inline constexpr size_t kBlobChunkBytes = 1u << 20;

// A model.
inline constexpr int kMaxVocabulary = 1 << 20;
inline constexpr int kMaxLayers = 1024;
inline constexpr int kMaxHidden = 1 << 17;
inline constexpr size_t kMaxModelHeaderBytes = 256u << 20;    // of one GGUF or safetensors file
inline constexpr size_t kMaxModelTextFileBytes = 64u << 20;   // config.json, tokenizer.json, ...
inline constexpr int kMaxModelTensors = 1 << 20;
inline constexpr int kMaxModelFiles = 4096;

static_assert(kMaxSlots <= kMaxStepRows, "every running sequence must fit in one step");
static_assert(kDefaultStepRows <= kMaxStepRows);
static_assert(kMaxPromptTokens * 4 < static_cast<int64_t>(kMaxGrpcMessageBytes),
              "a submission with the longest prompt fits in one message");
static_assert(kMaxBodyBytes < kMaxGrpcMessageBytes);
static_assert(kBlobChunkBytes < kMaxGrpcMessageBytes);
static_assert(kMaxChoices <= kMaxSlots);
static_assert(kMaxBodyBytes < kMaxResumableBytes);

}  // namespace pagoda::limits
