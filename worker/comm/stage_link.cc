#include "worker/comm/stage_link.h"

#include <array>
#include <cstring>
#include <deque>
#include <optional>

#include "worker/comm/transport_text.h"

namespace pagoda::worker {
namespace {

// Micro-batches on the way to the next stage before SendHidden blocks.
constexpr size_t kMaxHiddenSends = 4;
// Samples of that many steps may be on the way; more means that stage 0 has long stopped reading.
constexpr size_t kMaxTokenSends = 1024;
// Two posted and one being read.
constexpr size_t kReceiveBuffers = 3;
constexpr size_t kMaxPosted = 2;

static_assert(sizeof(StageLink::SlotToken) == 8,
              "sent as it lies in memory: slot, then token, little endian");

std::span<const std::byte> BytesOf(const std::vector<StageLink::SlotToken>& tokens) {
  return std::as_bytes(std::span(tokens));
}

}  // namespace

struct StageLink::State {
  struct HiddenSend {
    std::unique_ptr<float[]> rows;  // [max_rows, hidden]
    // After `rows`: unfinished transfers end before their buffer goes.
    std::vector<std::unique_ptr<Transfer>> transfers;
  };
  struct TokenSend {
    StepNumber step;
    std::vector<SlotToken> tokens;
    std::unique_ptr<Transfer> transfer;  // null when this rank is the receiver too
  };
  struct Posted {
    StepNumber step;
    const float* rows;
    std::unique_ptr<Transfer> transfer;
  };

  State(Transport& transport_in, PeerId self_in, std::vector<StageShape> stages_in, int hidden_in,
        int max_rows_in)
      : transport(transport_in),
        self(self_in),
        stages(std::move(stages_in)),
        hidden(hidden_in),
        max_rows(max_rows_in) {}

  Transport& transport;
  const PeerId self;
  const std::vector<StageShape> stages;
  const int hidden;
  const int max_rows;
  std::vector<PeerId> next;        // ranks of the next stage that take their rows from this one
  std::optional<PeerId> previous;  // whose rows this one takes

  std::deque<HiddenSend> hidden_sends;                  // unfinished, oldest first
  std::vector<std::unique_ptr<float[]>> spare_buffers;  // of finished ones
  std::array<std::unique_ptr<float[]>, kReceiveBuffers> receive_buffers;
  size_t posts = 0;
  std::deque<Posted> posted;  // oldest first
  std::deque<TokenSend> token_sends;

  size_t HiddenBytes(int rows) const {
    return sizeof(float) * static_cast<size_t>(rows) * static_cast<size_t>(hidden);
  }
  std::unique_ptr<float[]> NewBuffer() const {
    return std::make_unique_for_overwrite<float[]>(static_cast<size_t>(max_rows) *
                                                   static_cast<size_t>(hidden));
  }
  static bool Done(const HiddenSend& send) {
    for (const auto& transfer : send.transfers) {
      if (!transfer->done()) return false;
    }
    return true;
  }
  // Takes back the buffers of finished sends; the first failure among them is returned.
  absl::Status Reap() {
    while (!hidden_sends.empty() && Done(hidden_sends.front())) {
      absl::Status status;
      for (const auto& transfer : hidden_sends.front().transfers) status.Update(transfer->status());
      spare_buffers.push_back(std::move(hidden_sends.front().rows));
      hidden_sends.pop_front();
      PAGODA_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }
  absl::Status MakeRoom(absl::Duration timeout, const std::atomic<bool>* stop) {
    PAGODA_RETURN_IF_ERROR(Reap());
    if (hidden_sends.size() < kMaxHiddenSends) return absl::OkStatus();
    std::vector<Transfer*> oldest;
    for (const auto& transfer : hidden_sends.front().transfers) oldest.push_back(transfer.get());
    PAGODA_RETURN_IF_ERROR(transport.Wait(oldest, timeout, stop));
    return Reap();
  }
};

StageLink::StageLink(Transport& transport, PeerId self, std::vector<StageShape> stages, int hidden,
                     int max_rows)
    : state_(std::make_unique<State>(transport, self, std::move(stages), hidden, max_rows)) {
  State& state = *state_;
  const int stage_count = static_cast<int>(state.stages.size());
  PAGODA_CHECK(self.stage >= 0 && self.stage < stage_count, "stage ", self.stage, " of ",
               stage_count);
  const int width = state.stages[self.stage].tensor_parallel;
  PAGODA_CHECK(self.rank >= 0 && self.rank < width, "rank ", self.rank, " of ", width);
  PAGODA_CHECK(hidden > 0 && max_rows > 0);
  if (!last()) {
    for (int rank = self.rank; rank < state.stages[self.stage + 1].tensor_parallel; rank += width) {
      state.next.push_back({.stage = self.stage + 1, .rank = rank});
    }
  }
  if (!first()) {
    state.previous = {.stage = self.stage - 1,
                      .rank = self.rank % state.stages[self.stage - 1].tensor_parallel};
    for (auto& buffer : state.receive_buffers) buffer = state.NewBuffer();
  }
}

StageLink::~StageLink() = default;

bool StageLink::first() const { return state_->self.stage == 0; }
bool StageLink::last() const {
  return state_->self.stage + 1 == static_cast<int>(state_->stages.size());
}

absl::Status StageLink::SendHidden(StepNumber step, const float* rows, int row_count,
                                   absl::Duration timeout, const std::atomic<bool>* stop) {
  State& state = *state_;
  PAGODA_CHECK(!last(), "the last stage has nobody to send hidden states to");
  PAGODA_CHECK(row_count > 0 && row_count <= state.max_rows, "got ", row_count, " rows; at most ",
               state.max_rows);
  if (state.next.empty()) return absl::OkStatus();
  PAGODA_RETURN_IF_ERROR(state.MakeRoom(timeout, stop));
  State::HiddenSend send;
  if (state.spare_buffers.empty()) {
    send.rows = state.NewBuffer();
  } else {
    send.rows = std::move(state.spare_buffers.back());
    state.spare_buffers.pop_back();
  }
  const size_t bytes = state.HiddenBytes(row_count);
  std::memcpy(send.rows.get(), rows, bytes);
  const std::span<const std::byte> data(reinterpret_cast<const std::byte*>(send.rows.get()), bytes);
  for (const PeerId peer : state.next) {
    send.transfers.push_back(state.transport.Send(
        peer, {.channel = Channel::kHidden, .step = step.value(), .sequence = 0}, data));
  }
  state.hidden_sends.push_back(std::move(send));
  return state.Reap();
}

absl::Status StageLink::PostReceiveHidden(StepNumber step, int row_count) {
  State& state = *state_;
  PAGODA_CHECK(!first(), "stage 0 receives no hidden states");
  PAGODA_CHECK(row_count > 0 && row_count <= state.max_rows, "got ", row_count, " rows; at most ",
               state.max_rows);
  PAGODA_CHECK(state.posted.size() < kMaxPosted, "two receives are posted already");
  float* rows = state.receive_buffers[state.posts++ % kReceiveBuffers].get();
  const std::span<std::byte> into(reinterpret_cast<std::byte*>(rows), state.HiddenBytes(row_count));
  state.posted.push_back(
      {.step = step,
       .rows = rows,
       .transfer = state.transport.Receive(
           *state.previous, {.channel = Channel::kHidden, .step = step.value(), .sequence = 0},
           into)});
  Transfer& transfer = *state.posted.back().transfer;
  return transfer.done() ? transfer.status() : absl::OkStatus();
}

absl::StatusOr<const float*> StageLink::ReceiveHidden(StepNumber step, absl::Duration timeout,
                                                      const std::atomic<bool>* stop) {
  State& state = *state_;
  PAGODA_CHECK(!state.posted.empty() && state.posted.front().step == step, "step ", step.value(),
               " was not posted, or not first");
  Transfer* const transfer = state.posted.front().transfer.get();
  // On a failure the receive stays posted: a cancelled wait may be taken up again.
  PAGODA_RETURN_IF_ERROR(state.transport.Wait({&transfer, 1}, timeout, stop));
  const float* rows = state.posted.front().rows;
  state.posted.pop_front();
  return rows;
}

absl::Status StageLink::SendTokens(StepNumber step, std::span<const SlotToken> tokens) {
  State& state = *state_;
  PAGODA_CHECK(last() && state.self.rank == 0, "only rank 0 of the last stage samples");
  if (tokens.empty()) return absl::OkStatus();
  absl::Status status;
  while (!first() && !state.token_sends.empty() && state.token_sends.front().transfer->done()) {
    status.Update(state.token_sends.front().transfer->status());
    state.token_sends.pop_front();
  }
  PAGODA_RETURN_IF_ERROR(status);
  if (state.token_sends.size() >= kMaxTokenSends) {
    return absl::ResourceExhaustedError(
        absl::StrCat("stage 0 rank 0 has not taken the tokens of ", kMaxTokenSends, " steps"));
  }
  state.token_sends.push_back(
      {.step = step, .tokens = {tokens.begin(), tokens.end()}, .transfer = nullptr});
  State::TokenSend& send = state.token_sends.back();
  if (first()) return absl::OkStatus();  // ReceiveTokens takes it from here
  send.transfer = state.transport.Send(
      {.stage = 0, .rank = 0}, {.channel = Channel::kTokens, .step = step.value(), .sequence = 0},
      BytesOf(send.tokens));
  return send.transfer->done() ? send.transfer->status() : absl::OkStatus();
}

absl::StatusOr<std::vector<StageLink::SlotToken>> StageLink::ReceiveTokens(
    StepNumber step, int samples, absl::Duration timeout, const std::atomic<bool>* stop) {
  State& state = *state_;
  PAGODA_CHECK(first() && state.self.rank == 0, "only rank 0 of stage 0 receives tokens");
  PAGODA_CHECK(samples >= 0);
  if (samples == 0) return std::vector<SlotToken>();
  if (last()) {
    PAGODA_CHECK(!state.token_sends.empty() && state.token_sends.front().step == step &&
                     state.token_sends.front().tokens.size() == static_cast<size_t>(samples),
                 "the tokens of step ", step.value(), " are not first in line");
    std::vector<SlotToken> tokens = std::move(state.token_sends.front().tokens);
    state.token_sends.pop_front();
    return tokens;
  }
  std::vector<SlotToken> tokens(static_cast<size_t>(samples));
  const PeerId sampler{.stage = static_cast<int>(state.stages.size()) - 1, .rank = 0};
  const auto transfer = state.transport.Receive(
      sampler, {.channel = Channel::kTokens, .step = step.value(), .sequence = 0},
      std::as_writable_bytes(std::span(tokens)));
  Transfer* const waited = transfer.get();
  PAGODA_RETURN_IF_ERROR(state.transport.Wait({&waited, 1}, timeout, stop));
  return tokens;
}

}  // namespace pagoda::worker
