#include "kernels/cuda/sample.h"

#include <cmath>

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kSumChunk = 1024;    // weights that are summed apart: only where sums are looked up, their value has no order
constexpr int kMaxChunks = 1024;   // so the largest vocabulary is 2^20
constexpr int kWanted = 1024;      // candidates that are looked at
constexpr int kRoom = 2048;        // with those that tie with the last of them
constexpr int kBins = 2048;

struct Shared {
  unsigned long long chunk_sums[kMaxChunks];
  unsigned long long keys[kRoom];  // value descending, id ascending: largest first
  uint32_t chunk[kSumChunk];
  int bins[kBins];
  unsigned long long best;
  unsigned long long total;
  unsigned long long cut;  // the key of the last candidate that is kept; 0: of all
  int count;
  int known;  // the cut could be made
  int above;
  uint32_t prefix;
};

// How likely a token is, in 2^-30 of the likeliest: the steps of kernels/cpu/logit_kernels_scalar.cc (whose header nvcc need not read).
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLowestExponent = -31.0f;
__device__ uint32_t WeightOf(float x, float top, float factor) {
  const float y = (x - top) * (factor * kLog2E);
  if (!(y >= kLowestExponent)) return 0;
  const int n = NearestInt(y);
  const float f = y - static_cast<float>(n);
  float p = 0.0013264738954603672f;  // cpu::kExp2, from its end
  p = Fma(p, f, 0.009671512991189957f);
  p = Fma(p, f, 0.05550733581185341f);
  p = Fma(p, f, 0.24022242426872253f);
  p = Fma(p, f, 0.6931470036506653f);
  p = Fma(p, f, 1.0f);
  return static_cast<uint32_t>(NearestInt(p * FloatOfBits(static_cast<uint32_t>(n + 157) << 23)));
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

// weights[i] of every token; their sum, and each chunk's.
__device__ unsigned long long Weigh(const float* x, int count, float top, float factor, uint32_t* weights, Shared& shared) {
  const int chunks = (count + kSumChunk - 1) / kSumChunk, lane = threadIdx.x % 32;
  for (int chunk = threadIdx.x / 32; chunk < chunks; chunk += kWarps) {
    const int end = count < (chunk + 1) * kSumChunk ? count : (chunk + 1) * kSumChunk;
    unsigned long long sum = 0;
    for (int i = chunk * kSumChunk + lane; i < end; i += 32) {
      weights[i] = WeightOf(x[i], top, factor);
      sum += weights[i];
    }
    for (int apart = 16; apart > 0; apart /= 2) sum += ShuffleXor(sum, apart);
    if (lane == 0) shared.chunk_sums[chunk] = sum;
  }
  BlockSync();
  if (threadIdx.x == 0) {
    shared.total = 0;
    shared.cut = 0;
    for (int c = 0; c < chunks; ++c) shared.total += shared.chunk_sums[c];
  }
  BlockSync();
  return shared.total;
}

// The chunks' sums of the tokens that were kept.
__device__ void SumKept(const float* x, int count, const uint32_t* weights, Shared& shared) {
  const int chunks = (count + kSumChunk - 1) / kSumChunk, lane = threadIdx.x % 32;
  for (int chunk = threadIdx.x / 32; chunk < chunks; chunk += kWarps) {
    const int end = count < (chunk + 1) * kSumChunk ? count : (chunk + 1) * kSumChunk;
    unsigned long long sum = 0;
    for (int i = chunk * kSumChunk + lane; i < end; i += 32) sum += KeyOf(x[i], i) >= shared.cut ? weights[i] : 0;
    for (int apart = 16; apart > 0; apart /= 2) sum += ShuffleXor(sum, apart);
    if (lane == 0) shared.chunk_sums[chunk] = sum;
  }
  BlockSync();
}

// By inverse CDF in id order over what was kept, which weighs `mass`. All threads go the same way.
__device__ int Pick(const float* x, int count, const uint32_t* weights, double uniform, unsigned long long mass, Shared& shared) {
  unsigned long long target = static_cast<unsigned long long>(uniform * static_cast<double>(mass));
  if (target > mass - 1) target = mass - 1;
  int chunk = 0;
  while (target >= shared.chunk_sums[chunk]) target -= shared.chunk_sums[chunk++];
  const int begin = chunk * kSumChunk;
  BlockSync();
  for (int i = threadIdx.x; i < kSumChunk; i += kThreads) {
    const int id = begin + i;
    shared.chunk[i] = id < count && KeyOf(x[id], id) >= shared.cut ? weights[id] : 0;
  }
  BlockSync();
  int i = 0;
  while (target >= shared.chunk[i]) target -= shared.chunk[i++];
  return begin + i;
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

// top_k, min_p, top_p over the candidates in order: which is the last that is kept, and what they weigh. One thread. False: the
// candidates are too few to say.
__device__ bool Cut(const SampleRowParams& row, const uint32_t* weights, int vocabulary, int found, Shared& shared) {
  const auto weight = [&](int i) { return weights[IdOf(shared.keys[i])]; };
  const bool cuts_k = row.top_k > 0 && row.top_k < vocabulary;
  const bool all = found < kWanted;  // nothing above -infinity was left out
  int keep = found;
  if (cuts_k) {
    if (row.top_k > found && !all) return false;
    keep = row.top_k < found ? row.top_k : found;
    while (keep > 1 && weight(keep - 1) < row.least) --keep;
  } else if (row.least > 0) {
    keep = 1;
    while (keep < found && weight(keep) >= row.least) ++keep;
    if (keep == found && !all) return false;
  }
  unsigned long long mass = shared.total;
  if (cuts_k || row.least > 0) {
    mass = 0;
    for (int i = 0; i < keep; ++i) mass += weight(i);
  }
  if (row.top_p < 1) {
    unsigned long long need = static_cast<unsigned long long>(ceil(row.top_p * static_cast<double>(mass)));
    if (need < 1) need = 1;
    unsigned long long sum = 0;
    int kept = 0;
    while (kept < keep && sum < need) sum += weight(kept++);
    if (sum < need && !(cuts_k || row.least > 0) && !all) return false;
    keep = kept;
    mass = sum;
  }
  shared.cut = shared.keys[keep - 1];
  shared.total = mass;
  return mass > 0;
}

__global__ void __launch_bounds__(kThreads) Sample(const __grid_constant__ SampleKernelParams p) {
  FollowPrevious();
  Shared& shared = *reinterpret_cast<Shared*>(DynamicShared());
  const SampleRowParams row = p.rows[blockIdx.x];
  const float* raw = p.logits + row.row * p.stride;
  uint32_t* weights = p.weights + static_cast<int64_t>(blockIdx.x) * p.vocabulary;
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
  const bool finite = !nothing && (FloatBits(x[token]) & 0x7fffffffu) < 0x7f800000u;
  if (row.factor > 0 && finite) {
    Weigh(x, p.vocabulary, x[token], row.factor, weights, shared);
    bool known = true;
    if ((row.top_k > 0 && row.top_k < p.vocabulary) || row.top_p < 1 || row.least > 0) {
      const int found = CollectLargest(x, p.vocabulary, shared);
      if (threadIdx.x == 0) shared.known = found > 0 && Cut(row, weights, p.vocabulary, found, shared) ? 1 : 0;
      BlockSync();
      known = shared.known == 1;
      if (known) SumKept(x, p.vocabulary, weights, shared);
    }
    token = known ? Pick(x, p.vocabulary, weights, row.uniform, shared.total, shared) : -1;
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
