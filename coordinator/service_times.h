// How quickly a pipeline has served lately, and what follows for a request that comes now: moving means of the time between
// admissions while somebody waits, of prefill, of a token, of a request's tokens. What came later than was foretold widens a
// margin quickly, what came earlier narrows it slowly: nearly all come within it (a request cut off at its deadline has cost
// nearly as much as one in time; one that is refused costs nothing). A plain state machine, owned by the
// scheduler. It knows nothing until requests have run, and then predicts nothing: never refuse on a guess.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pagoda::coordinator {

class ServiceTimes {
 public:
  // A request got its first rows; `others_wait`: the queue is not empty after it.
  void Admitted(int64_t now_ns, bool others_wait) {
    if (last_admission_ns_ > 0) {
      // They come in bursts: a plain mean first, then one that forgets.
      intervals_ = std::min(intervals_ + 1, 40);
      Mix(interval_ns_, static_cast<double>(now_ns - last_admission_ns_), 1.0 / intervals_);
    }
    last_admission_ns_ = others_wait ? now_ns : 0;
  }
  // Nobody waits any more: the pause until the next admission says nothing.
  void QueueEmpty() { last_admission_ns_ = 0; }
  // A choice has ended by itself.
  void Ended(int64_t prefill_ns, int64_t decode_ns, int output_tokens) {
    if (output_tokens < 1) return;
    Mix(prefill_ns_, static_cast<double>(prefill_ns), 0.2);
    if (output_tokens > 1) Mix(token_ns_, static_cast<double>(decode_ns) / (output_tokens - 1), 0.2);
    Mix(output_tokens_, output_tokens, 0.2);
  }

  // A request ended (or its deadline did) so much after it was foretold; negative: before.
  void CameAfter(int64_t late_ns) { end_.Add(static_cast<double>(late_ns)); }
  // The same, counted from its first row.
  void TookMore(int64_t late_ns) { service_.Add(static_cast<double>(late_ns)); }
  int64_t EndMarginNs() const { return static_cast<int64_t>(end_.ns); }
  int64_t ServiceMarginNs() const { return static_cast<int64_t>(service_.ns); }

  // Until the last of `ahead` requests before it, and then itself, have been admitted.
  int64_t WaitNs(int64_t ahead, int max_sequences) const {
    if (ahead <= 0) return 0;
    double interval = interval_ns_;
    if (interval < 0) interval = std::max(0.0, static_cast<double>(ServiceNs(1, 1 << 30))) / std::max(1, max_sequences);
    return static_cast<int64_t>(interval * static_cast<double>(ahead));
  }
  // From the first row to the last token of a request of so many tokens at least and at most; as many as others had, between
  // the two. 0: not known.
  int64_t ServiceNs(int least_tokens, int most_tokens) const {
    if (prefill_ns_ < 0) return 0;
    const double tokens = std::min<double>(most_tokens, std::max({1.0, output_tokens_, static_cast<double>(least_tokens)}));
    return static_cast<int64_t>(prefill_ns_ + std::max(0.0, token_ns_) * (tokens - 1));
  }

 private:
  struct Margin {
    double ns = 0;
    void Add(double late_ns) { ns = std::max(0.0, ns + (late_ns > ns ? 0.3 : 0.01) * (late_ns - ns)); }
  };
  static void Mix(double& mean, double value, double share) {
    mean = mean < 0 ? value : mean + share * (value - mean);
  }

  int64_t last_admission_ns_ = 0;
  int intervals_ = 0;
  Margin end_;
  Margin service_;
  double interval_ns_ = -1;
  double prefill_ns_ = -1;
  double token_ns_ = -1;
  double output_tokens_ = -1;
};

}  // namespace pagoda::coordinator
