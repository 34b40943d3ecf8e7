// What a step of this pipeline costs, learnt from the steps that ran: the time of so many decoding rows, of a row of a prompt,
// and the way from one step's result to the next one's start when nothing is run ahead. Decides what is worth computing.
// Plain data and pure functions; the owner synchronises.
#pragma once

#include <array>
#include <cstdint>

namespace pagoda::coordinator {

class StepCost {
 public:
  // A step of so many rows whose logits are wanted and so many of prompts took this long.
  void Observe(int decode_rows, int prompt_rows, int64_t compute_ns);
  // A step that found the workers idle: from its dispatch to its result, less what it computed.
  void ObserveRoundTrip(int64_t overhead_ns);

  // Expected, in ns; 0 while nothing was measured. Never less for more rows.
  double DecodeNs(int rows) const;
  double PromptRowNs() const { return prompt_row_ns_; }
  double RoundTripNs() const { return round_trip_ns_; }

 private:
  static constexpr int kBuckets = 24;
  struct Bucket {
    double rows = 0;
    double ns = 0;  // 0: not seen yet
  };
  static int BucketOf(int rows);

  std::array<Bucket, kBuckets> buckets_;
  double prompt_row_ns_ = 0;
  double round_trip_ns_ = 200'000;
};

}  // namespace pagoda::coordinator
