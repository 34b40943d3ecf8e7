// The numeric operations a worker is made of, on raw views. One Backend per worker: kernels/cpu implements it, kernels/cuda
// is its twin. A backend owns its threads or streams, its packed weights, activations and KV storage (as handles).
//
// Thread rule: one thread (the engine's) calls a backend. Operations run in call order; results in host memory are valid
// when Synchronize() returns (on CPU: at once). Pointers in views are the backend's own memory (NewBuffer), which the host may
// read and write only where host_memory() says so; Upload, Download, CopyRows and GatherRows work everywhere.
// Errors: kInvalidArgument when shapes do not fit (our bug, reported and not computed), kInternal when the device failed.
// Row counts may be 0: nothing is done. The arithmetic is stated in numerics.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/reduction_tree.h"

namespace pagoda::kernels {

enum class WeightFormat : uint8_t {
  kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
};
enum class KvType : uint8_t { kF32, kF16, kBF16, kI8, kF8 };  // kF8: e4m3, CUDA only
enum class GateKind : uint8_t { kSilu, kGelu };

// Rows of a weight matrix as they lie in a model file (not copied; must stay valid only during the call).
struct MatrixRows {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  const std::byte* data = nullptr;  // [rows, columns], packed in the format's blocks
};

struct PackOptions {
  // The part of the input columns that this rank multiplies, cut at virtual shards: shard i of `shard_columns` covers
  // columns [shard_columns[i], shard_columns[i+1]). All multiples of 32. Empty: one shard, all columns.
  std::vector<int64_t> shard_columns = {};
  // The subtrees of the reduction tree to add up (indices count the shards above from `first_shard`): one output plane
  // each. Empty: one plane, the tree over all shards.
  std::vector<ShardRange> planes = {};
  int first_shard = 0;
  std::span<const float> bias = {};  // [rows] or empty; only with one plane that is the whole tree
  int activation_bits = 8;      // 8 or 12: what the input is quantised to; ignored by float formats
  // Called when part i has been packed and its data will not be read again; or never.
  std::function<void(size_t part)> consumed = {};
};

struct ActivationForms {
  bool f32 = false;
  bool int8 = false;
  bool int12 = false;
  bool f16 = false;   // devices that multiply 16-bit weights by 16-bit inputs
  bool bf16 = false;
};

// A weight matrix in the backend's own layout. Immutable.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;  // of the input (this rank's part)
  virtual int planes() const = 0;
  virtual int activation_bits() const = 0;  // 0: takes f32 input
  virtual size_t bytes() const = 0;
  // Adds the forms that its input must have.
  virtual void AddForms(ActivationForms& forms) const {
    forms.f32 |= activation_bits() == 0;
    forms.int8 |= activation_bits() == 8;
    forms.int12 |= activation_bits() == 12;
  }
};

// f32 values in the backend's memory.
struct F32View {
  float* data = nullptr;  // [rows, columns], row r at data + r * stride
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
};

// The input of matrix products, in every form its readers need (f32, 8-bit or 12-bit blocks).
class Activation {
 public:
  virtual ~Activation() = default;
  virtual int64_t max_rows() const = 0;
  virtual int64_t columns() const = 0;
};

struct KvShape {
  int layers = 0;
  int blocks = 0;
  int kv_heads = 0;  // of this rank
  int head_dim = 0;
  int block_tokens = 16;  // a multiple of 16
  KvType type = KvType::kF16;
};
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual const KvShape& shape() const = 0;
  virtual size_t bytes() const = 0;

  // One block over all layers as KvBlockBytes(shape()) bytes, the same for every instruction set: what a cache of the same shape
  // and numerics profile may take in. Any thread, beside the engine's, as long as nobody else touches that block meanwhile.
  // Where movable() is false neither is there (a device needs a stream and host memory of its own for them).
  virtual bool movable() const { return false; }
  virtual void ReadBlock(int32_t, std::span<std::byte>) const {}
  virtual void WriteBlock(int32_t, std::span<const std::byte>) {}
};
size_t KvBlockBytes(const KvShape& shape);  // of one block over all layers, K and V and scales

// Consecutive rows of one sequence in a step.
struct SequenceRows {
  int first_row = 0;         // in the step's row order
  int rows = 0;
  int64_t first_position = 0;
  std::span<const int32_t> blocks = {};  // block ids of the sequence, by position / block_tokens; covers the last row
};
struct StepRows {
  std::span<const SequenceRows> sequences = {};
  int rows = 0;  // of all sequences together
};

struct AttentionParams {
  int layer = 0;  // within the KV cache
  int query_heads = 0;
  int kv_heads = 0;
  // Query head h of this rank reads kv head kv_head_of[h] (of this rank): uneven splits and replicated KV heads.
  std::span<const int32_t> kv_head_of = {};
  int head_dim = 0;
  float softmax_scale = 0;
  int sliding_window = 0;  // 0: none; else a row sees only the last `sliding_window` positions
};

struct RopeParams {
  std::span<const float> frequencies = {};  // [rotated dimensions / 2]
  bool interleaved = false;            // pairs (2i, 2i+1), else (i, i + half)
  float magnitude = 1.0f;              // factor on cos and sin
};

struct Buffer {  // zero-filled, 64-byte aligned
  virtual ~Buffer() = default;
  virtual void* data() = 0;
  virtual size_t bytes() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // A short name that changes when the bits would: "cpu-1".
  virtual std::string_view numerics_profile() const = 0;
  // The instruction set or device in use, for people: "avx512-vnni".
  virtual std::string_view implementation() const = 0;

  // Whether the host may read and write the backend's memory after Synchronize(). The operations below have this meaning
  // everywhere; their defaults (backend.cc) are those of host memory.
  virtual bool host_memory() const { return true; }
  virtual absl::Status Upload(const void* from, void* to, size_t bytes);    // `from` may be reused when it returns
  virtual absl::Status Download(const void* from, void* to, size_t bytes);  // waits for what was called before
  // Host memory that transfers quickly to and from the backend's own.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(size_t bytes) { return NewBuffer(bytes); }
  // Rows of a file kept where Embed can read them: null where they can stay as they lie, else their new place.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Hold(const MatrixRows& rows);

  struct CopyRowsParams {
    const float* from = nullptr;  // [rows, columns], rows from_stride apart
    int64_t from_stride = 0;
    float* to = nullptr;
    int64_t to_stride = 0;
    int64_t rows = 0;
    int64_t columns = 0;
  };
  virtual absl::Status CopyRows(const CopyRowsParams& params);  // does not overlap
  // out[i] = from[rows[i]]. Requires rows in range (checked).
  virtual absl::Status GatherRows(F32View from, std::span<const int> rows, F32View out);

  // A step's rows, known before its first operation: a device plans and uploads once here, and every layer reuses it. The
  // spans stay valid and unchanged until the next call. RopeAndStore, Attend and Embed of a step take what was begun.
  struct StepBegin {
    StepRows step = {};
    std::span<const int32_t> tokens = {};  // [rows] on the first stage, else empty
    const AttentionParams* attention = nullptr;  // of every layer (but for the layer's number)
    const RopeParams* rope = nullptr;
    const KvCache* cache = nullptr;
  };
  virtual absl::Status BeginStep(const StepBegin&) { return absl::OkStatus(); }
  // How many rows the layers should compute for a step of `rows`: a device with recorded steps rounds up to one it has
  // recorded (rows past the step's own are computed and never read).
  virtual int64_t PaddedRows(int64_t rows) const { return rows; }
  // Runs `body`, which calls operations on the padded rows and does not wait or transfer. A device may record what `body`
  // called under `key` and replay the record when a later step has the same key: then `body` is not called.
  struct StepKey {
    const void* owner = nullptr;  // whose body it is; ForgetSteps(owner) before it goes
    int64_t rows = 0;             // padded
    bool single_rows = false;     // every sequence has one row
  };
  virtual absl::Status RunStep(const StepKey&, const std::function<absl::Status()>& body) { return body(); }
  virtual void ForgetSteps(const void*) {}

  // Not OK: the device is lost for this process, which should end (the message names what failed).
  virtual absl::Status Health() const { return absl::OkStatus(); }
  // Bytes free for weights, KV and workspace; 0: the host's memory is meant.
  virtual int64_t FreeMemoryBytes() const { return 0; }

  virtual absl::StatusOr<std::unique_ptr<Buffer>> NewBuffer(size_t bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<Activation>> NewActivation(int64_t max_rows, int64_t columns,
                                                                    ActivationForms forms) = 0;
  virtual absl::StatusOr<std::unique_ptr<KvCache>> NewKvCache(const KvShape& shape) = 0;

  // `parts` are stacked: their rows become one matrix (q, k, v). All have the same number of columns: those of
  // options.shard_columns when given are a range within them. Formats may differ.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const MatrixRows> parts,
                                                             const PackOptions& options) = 0;

  // out[i] = row tokens[i] of `table`, dequantised. Requires tokens in range (checked).
  virtual absl::Status Embed(const MatrixRows& table, std::span<const int32_t> tokens, F32View out) = 0;

  // residual += the tree over `planes` (each [rows, columns], in `order` of adds_after_plane; none: nothing is added), then
  // out = RMSNorm(residual) * weight, in the forms that `out` has. out may be null: only add.
  struct AddNormParams {
    F32View residual = {};                       // [rows, hidden], changed in place
    std::span<const float* const> planes = {};   // each [rows, hidden], contiguous
    std::span<const int> adds_after_plane = {};  // see reduction_tree.h
    const float* norm_weight = nullptr;     // [hidden]; null: no norm, out ignored
    float epsilon = 0;
    Activation* out = nullptr;
  };
  virtual absl::Status AddNorm(const AddNormParams& params) = 0;

  // out = f32 rows -> forms.
  virtual absl::Status Quantize(F32View in, Activation& out) = 0;

  // out: planes() consecutive [rows, matrix.rows()] arrays, plane p at out + p * plane_stride; rows `row_stride` apart.
  struct MatMulParams {
    const PackedMatrix* matrix = nullptr;
    const Activation* input = nullptr;
    int64_t rows = 0;
    float* out = nullptr;
    int64_t row_stride = 0;
    int64_t plane_stride = 0;
  };
  virtual absl::Status MatMul(const MatMulParams& params) = 0;

  // qkv: [rows, (query_heads + 2 kv_heads) * head_dim]. Turns q in place, turns k and writes k and v into the cache at each
  // row's position.
  virtual absl::Status RopeAndStore(F32View qkv, const StepRows& step, const RopeParams& rope,
                                    const AttentionParams& attention, KvCache& cache) = 0;
  // out: [rows, query_heads * head_dim] from the q part of qkv.
  virtual absl::Status Attend(F32View qkv, const StepRows& step, const AttentionParams& attention,
                              const KvCache& cache, F32View out) = 0;

  // out = gate(gu[:, 0..n)) * gu[:, n..2n), n = out.columns(); in the forms that `out` has.
  virtual absl::Status GatedActivation(F32View gate_up, GateKind kind, Activation& out) = 0;

  // ---- Steps in one: the same bits as the operations above one after the other, which is what a backend that does not
  // override them does. They save passes over memory and waiting of threads for each other.

  // MatMul by the qkv matrix into `qkv`, then RopeAndStore. After it only the q part of `qkv` means anything.
  struct QkvParams {
    const PackedMatrix* matrix = nullptr;
    const Activation* input = nullptr;
    F32View qkv = {};
    StepRows step = {};
    RopeParams rope = {};
    AttentionParams attention = {};
  };
  virtual absl::Status MatMulRopeAndStore(const QkvParams& params, KvCache& cache);

  // Attend into `out`, then Quantize of it into `forms`.
  virtual absl::Status AttendAndQuantize(F32View qkv, const StepRows& step, const AttentionParams& attention,
                                         const KvCache& cache, F32View out, Activation& forms);

  // MatMul by the matrix of gate and up (its two parts, of equal rows), then GatedActivation. `scratch`: [rows, matrix rows].
  struct GatedMatMulParams {
    const PackedMatrix* matrix = nullptr;
    const Activation* input = nullptr;
    F32View scratch = {};
    GateKind kind = GateKind::kSilu;
  };
  virtual absl::Status MatMulGated(const GatedMatMulParams& params, Activation& out);

  // The largest of each row of the product and where it is (the lowest of equals; NaN never wins; -1 when there is none).
  // `scratch`: [rows, matrix rows]; what it holds after is not said.
  struct Largest {
    int32_t index = -1;
    float value = 0;
  };
  virtual absl::Status MatMulLargest(const MatMulParams& params, std::span<Largest> largest);

  struct BlockCopy {
    int32_t from = 0;
    int32_t to = 0;
  };
  // All layers, K and V. Copies do not overlap.
  virtual absl::Status CopyBlocks(std::span<const BlockCopy> copies, KvCache& cache) = 0;

  // Chooses a token of each row of raw logits as worker/sampler does, on the device; only the tokens come to the host. -1: this row is
  // left to the host (its cut keeps more candidates than the device looks at).
  struct SampleEdit {
    int32_t token = 0;
    bool forbid = false;
    bool seen = false;   // in prompt or output: the repetition penalty applies
    int output = 0;      // times put out
    float bias = 0;      // added before the penalties
  };
  struct SampleRow {
    int row = 0;                                 // of the logits
    std::span<const SampleEdit> edits = {};      // each token at most once
    float repetition = 1, frequency = 0, presence = 0;
    float factor = 0;                            // 1 / temperature; 0: the largest
    int top_k = 0;                               // 0: all
    double top_p = 1;
    uint32_t least = 0;                          // the least weight that is kept (min_p), in 2^-30 of the largest
    double uniform = 0;
  };
  virtual bool samples() const { return false; }
  virtual absl::Status Sample(F32View, std::span<const SampleRow>, std::span<int32_t>) {
    return absl::UnimplementedError("this backend leaves sampling to the host");
  }
  // Host work beside the operations (sampling): body(thread, task) for every task in [0, tasks), each on one of
  // host_threads() threads; returns when all are done.
  virtual int host_threads() const = 0;
  virtual void RunOnHost(int64_t tasks, const std::function<void(int thread, int64_t task)>& body) = 0;

  virtual absl::Status Synchronize() = 0;
};

}  // namespace pagoda::kernels
