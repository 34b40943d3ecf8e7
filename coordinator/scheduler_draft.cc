// Lossless speculation by prompt lookup: whose next tokens are guessed, and how many. A guessed sequence runs its last known
// token and the guesses as one entry of rows; the workers sample row after row as long as the guesses come true, with the random
// numbers that each output index has anyway, so the tokens are the same as without. Such a sequence is not run ahead: its
// tokens must be known when the plan is made.
#include <algorithm>
#include <limits>
#include <utility>

#include "common/limits.h"
#include "coordinator/scheduler.h"

namespace pagoda::coordinator {
namespace {

// With more sequences than these a step has arithmetic enough without guesses; nothing is looked up.
constexpr int kMostSequencesThatDraft = 16;
// How much more than running ahead guessing must promise to begin, so that measuring noise does not switch it to and fro.
constexpr double kGainToBegin = 1.1;

int CeilDivide(int a, int b) { return (a + b - 1) / b; }

}  // namespace

int Scheduler::MostDrafts(const Sequence& sequence) const {
  const int outputs_left = OutputLimit(sequence) - sequence.output_count() - sequence.unread_samples;
  return std::min({limits::kMaxDraftTokens, outputs_left - 1, settings_.max_step_rows - 1});
}

std::unordered_map<const Sequence*, int> Scheduler::PlanDrafts(const std::vector<SequencePointer>& decoding,
                                                               bool prompts_pending) {
  struct Candidate {
    const Sequence* sequence = nullptr;
    int most = 0;
    int count = 0;
    double chance = 1;  // that all guesses so far come true
    double next() const { return chance * sequence->drafter->HitRate(sequence->unread_samples + count); }
  };
  std::unordered_map<const Sequence*, int> wanted;
  std::vector<Candidate> candidates;
  const int sequences = static_cast<int>(decoding.size());
  const bool time_to_spare = !prompts_pending && sequences <= kMostSequencesThatDraft;
  for (const SequencePointer& sequence : decoding) {
    const int asked = sequence->request->sampling->speculative_tokens;
    if (asked < 0 || (asked == 0 && !time_to_spare)) continue;
    if (sequence->drafter == nullptr) sequence->drafter = std::make_unique<NgramDrafter>();
    sequence->drafter->Observe(sequence->tokens);
    const int most = MostDrafts(*sequence);
    if (!sequence->drafter->has_guess() || most < 1) continue;
    if (asked > 0) {
      wanted[sequence.get()] = std::min(asked, most);
    } else {
      Candidate candidate{.sequence = sequence.get(), .most = most};
      for (int i = 0; i < sequence->unread_samples; ++i) candidate.chance *= sequence->drafter->HitRate(i);
      candidates.push_back(candidate);
    }
  }
  const double alone_ns = settings_.stages * cost_.DecodeNs(CeilDivide(sequences, settings_.stages));
  if (candidates.empty() || alone_ns <= 0) {
    drafting_ = false;
    return wanted;
  }

  // Guess by guess, the likeliest first; the number with the best rate of tokens is taken.
  double tokens = sequences;
  double best_rate = 0;
  std::vector<int> best_counts(candidates.size(), 0);
  for (int guesses = 1; guesses < settings_.max_step_rows - sequences; ++guesses) {
    Candidate* likeliest = nullptr;
    for (Candidate& candidate : candidates) {
      if (candidate.count < candidate.most && (likeliest == nullptr || candidate.next() > likeliest->next())) {
        likeliest = &candidate;
      }
    }
    if (likeliest == nullptr || likeliest->next() < 0.05) break;
    likeliest->chance = likeliest->next();
    ++likeliest->count;
    tokens += likeliest->chance;
    const double step_ns = settings_.stages * cost_.DecodeNs(CeilDivide(sequences + guesses, settings_.stages));
    const double rate = tokens / (step_ns + cost_.RoundTripNs());
    if (rate <= best_rate) continue;
    best_rate = rate;
    for (size_t i = 0; i < candidates.size(); ++i) best_counts[i] = candidates[i].count;
  }
  drafting_ = best_rate > sequences / alone_ns * (drafting_ ? 1 : kGainToBegin);
  if (!drafting_) return wanted;
  // All keep step: one that ran ahead would cut the batch in two.
  for (const SequencePointer& sequence : decoding) wanted.try_emplace(sequence.get(), 0);
  for (size_t i = 0; i < candidates.size(); ++i) wanted[candidates[i].sequence] = best_counts[i];
  return wanted;
}

// Guesses for a sequence whose tokens are all known, as far as the plan and the pool have room without taking any from others.
std::vector<TokenId> Scheduler::DraftsOf(const Draft& draft, Sequence& sequence, int wanted) {
  const int count = std::min({wanted, draft.rows_left - 1, MostDrafts(sequence)});
  if (count < 1 || sequence.unread_samples > 0 || sequence.pending_rows() != 1) return {};
  const int margin = static_cast<int>(running_.size());
  int room = static_cast<int>(sequence.blocks.size()) * settings_.block_tokens - sequence.scheduled - 1;
  while (room < count && Available() > margin) {
    sequence.blocks.push_back(*Allocate());
    room += settings_.block_tokens;
  }
  return room < 1 ? std::vector<TokenId>() : sequence.drafter->Guess(sequence.tokens, std::min(count, room));
}

}  // namespace pagoda::coordinator
