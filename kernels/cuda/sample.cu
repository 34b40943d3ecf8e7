#include "kernels/cuda/sample.h"

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kSumChunk = 1024;    // worker/sampler/fixed_math.h
constexpr int kMaxChunks = 1024;   // so the largest vocabulary is 2^20
constexpr int kWanted = 1024;      // candidates that are looked at
constexpr int kRoom = 2048;        // with those that tie with the last of them
constexpr int kBins = 2048;

struct Shared {
  double chunk_sums[kMaxChunks];
  unsigned long long keys[kRoom];  // value descending, id ascending: largest first
  float chunk[kSumChunk];
  int bins[kBins];
  unsigned long long best;
  double total;
  int count;
  int above;
  uint32_t prefix;
};

// exp as worker/sampler/fixed_math.cc has it: nothing fused.
__device__ float SamplerExp(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f;
  const float t = clamped * 1.44269504088896341f + magic;
  const float n = t - magic;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 0.00139362610f;
  p = p * r + 0.00833336823f;
  p = p * r + 0.0416664853f;
  p = p * r + 0.166666672f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return x < -87.0f ? 0.0f : p * FloatOfBits((FloatBits(t) << 23) + 0x3f800000u);
}

// Larger value, larger key; -0 is 0; NaN is below everything.
__device__ uint32_t ValueKey(float x) {
  if (!(x == x)) return 0;
  const uint32_t bits = FloatBits(x == 0.0f ? 0.0f : x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ unsigned long long KeyOf(float x, int id) {
  return static_cast<unsigned long long>(ValueKey(x)) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ int IdOf(unsigned long long key) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key)); }
constexpr uint32_t kLowestKey = 0x007fffffu;  // of -infinity

__device__ unsigned long long LargestKey(const float* x, int count, Shared& shared) {
  if (threadIdx.x == 0) shared.best = 0;
  BlockSync();
  unsigned long long best = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const unsigned long long key = KeyOf(x[i], i);
    best = key > best ? key : best;
  }
  for (int apart = 16; apart > 0; apart /= 2) {
    const unsigned long long other = ShuffleXor(best, apart);
    best = other > best ? other : best;
  }
  if (threadIdx.x % 32 == 0) AtomicMax(&shared.best, best);
  BlockSync();
  return shared.best;
}

// Masks, biases, penalties: into a copy of the row.
__device__ const float* Edit(const SampleKernelParams& p, const SampleRowParams& row, const float* raw, float* edited) {
  for (int i = threadIdx.x; i < p.vocabulary; i += kThreads) edited[i] = raw[i];
  BlockSync();
  // The host gives each token once.
  for (int e = threadIdx.x; e < row.edits; e += kThreads) {
    const SampleEdit edit = p.edits[row.first_edit + e];
    float score = edited[edit.token];
    if ((edit.flags & 1) != 0) score = FloatOfBits(0xff800000u);
    score = score + edit.bias;
    if ((edit.flags & 2) != 0) {
      score = score > 0 ? score / row.repetition : score * row.repetition;
      const uint32_t times = edit.flags >> 2;
      if (times > 0) {
        score = score - row.frequency * static_cast<float>(times);
        score = score - row.presence;
      }
    }
    edited[edit.token] = score;
  }
  BlockSync();
  return edited;
}

// weights[i] = exp((x[i] - top) * factor); their sum: 16 lanes in double for each chunk, lanes 8, 4, 2, 1 apart, chunks in order.
__device__ double Weigh(const float* x, int count, float top, float factor, float* weights, Shared& shared) {
  const int chunks = (count + kSumChunk - 1) / kSumChunk, lane = threadIdx.x % 16;
  // Both halves of a warp take as many turns, since they meet in the shuffles.
  for (int first = threadIdx.x / 32 * 2; first < chunks; first += kThreads / 16) {
    const int chunk = first + threadIdx.x % 32 / 16;
    double sum = 0;
    if (chunk < chunks) {
      const int end = count < (chunk + 1) * kSumChunk ? count : (chunk + 1) * kSumChunk;
      for (int i = chunk * kSumChunk + lane; i < end; i += 16) {
        const float w = SamplerExp((x[i] - top) * factor);
        weights[i] = w;
        sum = sum + static_cast<double>(w);
      }
    }
    for (int apart = 8; apart > 0; apart /= 2) sum = sum + ShuffleXor(sum, apart);
    if (lane == 0 && chunk < chunks) shared.chunk_sums[chunk] = sum;
  }
  BlockSync();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int c = 0; c < chunks; ++c) total = total + shared.chunk_sums[c];
    shared.total = total;
  }
  BlockSync();
  return shared.total;
}

// By inverse CDF over the vocabulary in id order.
__device__ int PickFromAll(const float* weights, int count, double target, Shared& shared) {
  double before = 0;
  int last = 0;
  for (int begin = 0; begin < count; begin += kSumChunk) {  // every thread goes the same way
    const int length = count - begin < kSumChunk ? count - begin : kSumChunk;
    const double sum = shared.chunk_sums[begin / kSumChunk];
    if (before + sum <= target && begin + kSumChunk < count) {
      before = before + sum;
      continue;
    }
    BlockSync();
    for (int i = threadIdx.x; i < length; i += kThreads) shared.chunk[i] = weights[begin + i];
    BlockSync();
    for (int i = 0; i < length; ++i) {
      if (shared.chunk[i] <= 0.0f) continue;
      last = begin + i;
      before = before + static_cast<double>(shared.chunk[i]);
      if (before > target) return last;
    }
  }
  return last;
}

// The largest values (at least kWanted, or all above -infinity), in order, into shared.keys. Returns how many, or -1: too many tie.
__device__ int CollectLargest(const float* x, int count, Shared& shared) {
  if (threadIdx.x == 0) {
    shared.prefix = 0;
    shared.above = 0;
  }
  // The value of the kWanted-th largest, 11, 11 and 10 bits at a time.
  const int shifts[3] = {21, 10, 0};
  for (int pass = 0; pass < 3; ++pass) {
    const int shift = shifts[pass];
    const uint32_t done = pass == 0 ? 0u : 0xffffffffu << shifts[pass - 1];
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
    BlockSync();
    const uint32_t prefix = shared.prefix;
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const uint32_t key = ValueKey(x[i]);
      if ((key & done) == prefix && key > kLowestKey) AtomicAdd(&shared.bins[key >> shift & (pass == 2 ? 1023 : 2047)], 1);
    }
    BlockSync();
    if (threadIdx.x == 0) {
      int above = shared.above, bin = pass == 2 ? 1023 : 2047;
      while (bin > 0 && above + shared.bins[bin] < kWanted) above += shared.bins[bin--];
      shared.above = above;
      shared.prefix = prefix | static_cast<uint32_t>(bin) << shift;
    }
    BlockSync();
  }
  const uint32_t bound = shared.prefix;
  if (threadIdx.x == 0) shared.count = 0;
  for (int i = threadIdx.x; i < kRoom; i += kThreads) shared.keys[i] = 0;
  BlockSync();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const uint32_t key = ValueKey(x[i]);
    if (key < bound || key <= kLowestKey) continue;
    const int place = AtomicAdd(&shared.count, 1);
    if (place < kRoom) shared.keys[place] = KeyOf(x[i], i);
  }
  BlockSync();
  if (shared.count > kRoom) return -1;
  for (int size = 2; size <= kRoom; size *= 2) {  // bitonic, largest first
    for (int apart = size / 2; apart > 0; apart /= 2) {
      for (int i = threadIdx.x; i < kRoom; i += kThreads) {
        const int other = i ^ apart;
        if (other <= i) continue;
        const unsigned long long a = shared.keys[i], b = shared.keys[other];
        const bool descending = (i & size) == 0;
        if (descending ? a < b : a > b) {
          shared.keys[i] = b;
          shared.keys[other] = a;
        }
      }
      BlockSync();
    }
  }
  return shared.count;
}

// top_k, min_p, top_p over the candidates, then one of the rest. One thread. -1: the candidates are too few to say.
__device__ int Choose(const SampleRowParams& row, const float* weights, int vocabulary, int found, double total, const Shared& shared) {
  const auto weight = [&](int i) { return weights[IdOf(shared.keys[i])]; };
  const bool cuts_k = row.top_k > 0 && row.top_k < vocabulary, cuts_p = row.top_p < 1, cuts_min = row.min_p > 0;
  const bool all = found < kWanted;  // nothing above -infinity was left out
  int keep = found;
  if (cuts_k) {
    if (row.top_k > found && !all) return -1;
    keep = row.top_k < found ? row.top_k : found;
  } else if (cuts_min) {
    const float bound = row.min_p < 0.999f ? row.min_p : 0.999f;
    keep = 0;
    while (keep < found && weight(keep) >= bound) ++keep;
    if (keep == found && !all) return -1;
  }
  if (cuts_min) {
    while (keep > 1 && weight(keep - 1) < row.min_p) --keep;
  }
  if (cuts_p) {
    double mass = total;
    if (cuts_k || cuts_min) {
      mass = 0;
      for (int i = 0; i < keep; ++i) mass = mass + static_cast<double>(weight(i));
    }
    const double target = row.top_p * mass;
    double sum = 0;
    int kept = 0;
    while (kept < keep && (sum < target || kept == 0)) sum = sum + static_cast<double>(weight(kept++));
    if (sum < target && !(cuts_k || cuts_min) && !all) return -1;
    keep = kept;
  }
  double rest = 0;
  for (int i = 0; i < keep; ++i) rest = rest + static_cast<double>(weight(i));
  const double target = row.uniform * rest;
  double sum = 0;
  for (int i = 0; i < keep; ++i) {
    sum = sum + static_cast<double>(weight(i));
    if (sum > target) return IdOf(shared.keys[i]);
  }
  return keep > 0 ? IdOf(shared.keys[keep - 1]) : -1;
}

__global__ void __launch_bounds__(kThreads) Sample(const __grid_constant__ SampleKernelParams p) {
  FollowPrevious();
  Shared& shared = *reinterpret_cast<Shared*>(DynamicShared());
  const SampleRowParams row = p.rows[blockIdx.x];
  const float* raw = p.logits + row.row * p.stride;
  float* weights = p.weights + static_cast<int64_t>(blockIdx.x) * p.vocabulary;
  const float* x = raw;
  unsigned long long best = 0;
  if (row.edits > 0) {
    x = Edit(p, row, raw, p.edited + static_cast<int64_t>(blockIdx.x) * p.vocabulary);
    best = LargestKey(x, p.vocabulary, shared);
    if (static_cast<uint32_t>(best >> 32) <= kLowestKey) x = raw;  // everything is masked
    BlockSync();
  }
  if (x == raw) best = LargestKey(x, p.vocabulary, shared);
  const bool nothing = static_cast<uint32_t>(best >> 32) == 0;  // all NaN
  int token = nothing ? 0 : IdOf(best);
  if (row.factor > 0 && !nothing) {
    const double total = Weigh(x, p.vocabulary, x[token], row.factor, weights, shared);
    const bool usable = total > 0 && total < DoubleOfBits(0x7ff0000000000000ull);
    const bool cuts = (row.top_k > 0 && row.top_k < p.vocabulary) || row.top_p < 1 || row.min_p > 0;
    if (usable && !cuts) {
      token = PickFromAll(weights, p.vocabulary, row.uniform * total, shared);
    } else if (usable) {
      const int found = CollectLargest(x, p.vocabulary, shared);
      token = -1;
      if (threadIdx.x == 0 && found >= 0) token = Choose(row, weights, p.vocabulary, found, total, shared);
    }
  }
  if (threadIdx.x == 0) p.tokens[blockIdx.x] = token;
}

}  // namespace

cudaError_t LaunchSample(const SampleKernelParams& p, cudaStream_t stream) {
  if (p.count == 0) return cudaSuccess;
  if (p.vocabulary < 1 || p.vocabulary > kSumChunk * kMaxChunks || p.stride < p.vocabulary) return cudaErrorInvalidValue;
  return Launch("Sample", Sample, {dim3(static_cast<unsigned>(p.count)), dim3(kThreads), sizeof(Shared), stream}, p);
}

}  // namespace pagoda::kernels::cuda
