#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/weight_blocks.h"
#include "kernels/cuda/gemm_formats.h"
#include "kernels/cuda/objects.h"
#include "kernels/cuda/recorded_steps.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/step_data.h"

namespace pagoda::kernels {
namespace {

using cuda::CudaActivation;
using cuda::CudaKvCache;
using cuda::CudaPackedMatrix;
using cuda::Device;
using cuda::DeviceMemory;

constexpr int64_t kBuckets[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256};
constexpr int64_t kFewTokens = 32;  // up to here the fast profile streams weights as the other does
constexpr int64_t kSharedBytes = 200 << 10;  // of a multiprocessor, for attention's rings

bool IsHalf(int format) {
  return format == static_cast<int>(WeightFormat::kF16) || format == static_cast<int>(WeightFormat::kBF16);
}

absl::Status Unfit(absl::string_view operation, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(operation, ": ", what));
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<Device> device, const CudaBackendOptions& options)
      : device_(std::move(device)),
        steps_(*device_),
        graphs_(options.graphs),
        fast_(options.fast),
        warpgroups_(options.fast && device_->capability() == 90),
        profile_(absl::StrCat("cuda-sm", device_->capability(), options.fast ? "-fast-1" : "-1")),
        implementation_(absl::StrCat("cuda ", device_->name(), " sm_", device_->capability())) {}

  std::string_view numerics_profile() const override { return profile_; }
  std::string_view implementation() const override { return implementation_; }
  bool host_memory() const override { return false; }
  absl::Status Health() const override { return device_->health(); }
  int64_t FreeMemoryBytes() const override { return static_cast<int64_t>(device_->free_bytes()); }

  absl::Status Upload(const void* from, void* to, size_t bytes) override { return device_->Upload(from, to, bytes); }
  absl::Status Download(const void* from, void* to, size_t bytes) override { return device_->Download(from, to, bytes); }
  absl::Status Synchronize() override { return device_->Synchronize("wait for the step"); }
  absl::StatusOr<std::unique_ptr<Buffer>> NewBuffer(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<Buffer>> Hold(const MatrixRows& rows) override;
  absl::StatusOr<std::unique_ptr<Activation>> NewActivation(int64_t max_rows, int64_t columns,
                                                            ActivationForms forms) override {
    return CudaActivation::Make(*device_, max_rows, columns, forms, warpgroups_);
  }
  absl::StatusOr<std::unique_ptr<KvCache>> NewKvCache(const KvShape& shape) override { return CudaKvCache::Make(*device_, shape); }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const MatrixRows> parts, const PackOptions& options) override {
    return CudaPackedMatrix::Make(*device_, parts, options, scratch_);
  }

  absl::Status CopyRows(const CopyRowsParams& params) override;
  absl::Status GatherRows(F32View from, std::span<const int> rows, F32View out) override;
  absl::Status BeginStep(const StepBegin& begin) override;
  int64_t PaddedRows(int64_t rows) const override;
  absl::Status RunStep(const StepKey& key, const std::function<absl::Status()>& body) override;
  void ForgetSteps(const void* owner) override { steps_.Forget(owner); }

  absl::Status Embed(const MatrixRows& table, std::span<const int32_t> tokens, F32View out) override;
  absl::Status AddNorm(const AddNormParams& params) override;
  absl::Status Quantize(F32View in, Activation& out) override;
  absl::Status MatMul(const MatMulParams& params) override;
  absl::Status RopeAndStore(F32View qkv, const StepRows& step, const RopeParams& rope, const AttentionParams& attention,
                            KvCache& cache) override;
  absl::Status Attend(F32View qkv, const StepRows& step, const AttentionParams& attention, const KvCache& cache,
                      F32View out) override;
  absl::Status GatedActivation(F32View gate_up, GateKind kind, Activation& out) override;
  absl::Status CopyBlocks(std::span<const BlockCopy> copies, KvCache& cache) override;
  // The host has little to do beside a device: one thread does it.
  int host_threads() const override { return 1; }
  void RunOnHost(int64_t tasks, const std::function<void(int thread, int64_t task)>& body) override {
    for (int64_t task = 0; task < tasks; ++task) body(0, task);
  }
  bool samples() const override { return true; }
  absl::Status Sample(F32View logits, std::span<const SampleRow> rows, std::span<int32_t> tokens) override;

 private:
  // Small arrays of the host, read by the operation that follows on the stream.
  absl::StatusOr<const void*> Stage(const void* data, size_t bytes);
  absl::Status GrowStack(int64_t floats);
  int AttentionBlocks(const KvShape& shape) const;
  bool StepFits(const StepRows& step) const { return step_.begun() && step.rows >= step_.rows(); }

  std::unique_ptr<Device> device_;
  cuda::StepData step_;
  cuda::RecordedSteps steps_;
  const bool graphs_;
  const bool fast_;
  const bool warpgroups_;  // products of many tokens with wgmma
  const std::string profile_;
  const std::string implementation_;
  DeviceMemory scratch_;  // weights on their way
  DeviceMemory stack_;    // unfinished shards of products of many tokens
  DeviceMemory staged_;
  DeviceMemory sampling_;  // edited rows, weights, tokens
};

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::NewBuffer(size_t bytes) {
  auto memory = DeviceMemory::New(*device_, bytes, "workspace", true);
  if (!memory.ok()) return memory.status();
  return std::make_unique<cuda::DeviceBuffer>(*std::move(memory));
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::NewHostBuffer(size_t bytes) {
  auto memory = DeviceMemory::NewPinned(*device_, bytes);
  if (!memory.ok()) return memory.status();
  return std::make_unique<cuda::DeviceBuffer>(*std::move(memory));
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::Hold(const MatrixRows& rows) {
  const size_t bytes = static_cast<size_t>(rows.rows * cpu::RowBytes(rows.format, rows.columns));
  auto memory = DeviceMemory::New(*device_, bytes, "the embedding");
  if (!memory.ok()) return memory.status();
  if (absl::Status status = device_->Upload(rows.data, memory->as<void>(), bytes); !status.ok()) return status;
  return std::make_unique<cuda::DeviceBuffer>(*std::move(memory));
}

absl::StatusOr<const void*> CudaBackend::Stage(const void* data, size_t bytes) {
  if (steps_.recording()) return absl::InvalidArgumentError("a transfer within a recorded step");
  if (staged_.bytes() < bytes) {
    auto memory = DeviceMemory::New(*device_, std::max<size_t>(bytes, 4096) * 2, "arguments");
    if (!memory.ok()) return memory.status();
    staged_ = *std::move(memory);
  }
  if (absl::Status status = device_->Upload(data, staged_.as<void>(), bytes); !status.ok()) return status;
  return staged_.as<void>();
}

absl::Status CudaBackend::CopyRows(const CopyRowsParams& params) {
  if (params.from_stride < params.columns || params.to_stride < params.columns) {
    return Unfit("copy rows", absl::StrCat(params.columns, " columns, rows ", params.from_stride, " and ", params.to_stride, " apart"));
  }
  return device_->Check(cuda::LaunchCopyRows({.from = params.from,
                                              .from_stride = params.from_stride,
                                              .to = params.to,
                                              .to_stride = params.to_stride,
                                              .rows = params.rows,
                                              .columns = params.columns},
                                             device_->stream()),
                        "copy rows");
}

absl::Status CudaBackend::GatherRows(F32View from, std::span<const int> rows, F32View out) {
  const int64_t count = static_cast<int64_t>(rows.size());
  if (from.columns != out.columns || out.rows < count) return Unfit("gather rows", "shapes differ");
  for (const int row : rows) {
    if (row < 0 || row >= from.rows) return Unfit("gather rows", absl::StrCat("row ", row, " of ", from.rows));
  }
  const auto indices = Stage(rows.data(), rows.size_bytes());
  if (!indices.ok()) return indices.status();
  return device_->Check(cuda::LaunchCopyRows({.from = from.data,
                                              .from_stride = from.stride,
                                              .to = out.data,
                                              .to_stride = out.stride,
                                              .rows = count,
                                              .columns = from.columns,
                                              .indices = static_cast<const int32_t*>(*indices)},
                                             device_->stream()),
                        "gather rows");
}

int CudaBackend::AttentionBlocks(const KvShape& shape) const {
  // As many blocks of 4 warps, each warp with its ring of tiles, as fit the multiprocessors' shared memory.
  const int64_t tile = cuda::LayoutOf(shape).tile_bytes + 8;
  const int64_t ring = cuda::kAttentionWarps * cuda::AttentionStages(tile - 8) * tile;
  const int64_t each = std::clamp<int64_t>(kSharedBytes / ring, 1, 4);
  return static_cast<int>(device_->multiprocessors() * each);
}

absl::Status CudaBackend::BeginStep(const StepBegin& begin) {
  bool moved = false;
  const int warps = begin.cache == nullptr ? 1 : AttentionBlocks(begin.cache->shape()) * cuda::kAttentionWarps;
  const absl::Status status = step_.Begin(*device_, begin, warps, &moved);
  if (moved) steps_.ForgetAll();
  return status;
}

int64_t CudaBackend::PaddedRows(int64_t rows) const {
  if (!graphs_) return rows;
  for (const int64_t bucket : kBuckets) {
    if (rows <= bucket) return bucket;
  }
  return rows;
}

absl::Status CudaBackend::RunStep(const StepKey& key, const std::function<absl::Status()>& body) {
  if (!graphs_ || !key.single_rows || key.rows > kBuckets[std::size(kBuckets) - 1]) return body();
  return steps_.Run(key, body);
}

absl::Status CudaBackend::Embed(const MatrixRows& table, std::span<const int32_t> tokens, F32View out) {
  const int64_t rows = static_cast<int64_t>(tokens.size());
  if (rows == 0) return absl::OkStatus();
  if (out.columns != table.columns || out.rows < rows || out.stride < out.columns ||
      table.columns % cpu::TraitsOf(table.format).block_columns != 0) {
    return Unfit("embed", absl::StrCat("a table of ", table.columns, " columns into [", out.rows, ", ", out.columns, "] for ", rows, " tokens"));
  }
  for (const int32_t token : tokens) {
    if (token < 0 || token >= table.rows) return Unfit("embed", absl::StrCat("token ", token, " of a vocabulary of ", table.rows));
  }
  const auto staged = Stage(tokens.data(), tokens.size_bytes());
  if (!staged.ok()) return staged.status();
  return device_->Check(cuda::LaunchEmbed({.format = static_cast<int>(table.format),
                                           .table = reinterpret_cast<const uint8_t*>(table.data),
                                           .row_bytes = cpu::RowBytes(table.format, table.columns),
                                           .tokens = static_cast<const int32_t*>(*staged),
                                           .rows = rows,
                                           .columns = table.columns,
                                           .out = out.data,
                                           .stride = out.stride},
                                          device_->stream()),
                        "embed");
}

absl::Status CudaBackend::AddNorm(const AddNormParams& params) {
  const F32View& residual = params.residual;
  const auto* out = static_cast<const CudaActivation*>(params.out);
  const bool norm = params.norm_weight != nullptr && out != nullptr;
  if (residual.stride < residual.columns || params.planes.size() != params.adds_after_plane.size() ||
      params.planes.size() > cuda::kMaxPlanes ||
      (norm && (out->columns() != residual.columns || out->max_rows() < residual.rows))) {
    return Unfit("add and norm", absl::StrCat("a residual of [", residual.rows, ", ", residual.columns, "] with ",
                                              params.planes.size(), " planes does not fit"));
  }
  cuda::AddNormKernelParams kernel{.residual = residual.data,
                                   .residual_stride = residual.stride,
                                   .rows = residual.rows,
                                   .columns = residual.columns,
                                   .plane_count = static_cast<int>(params.planes.size()),
                                   .norm_weight = norm ? params.norm_weight : nullptr,
                                   .epsilon = params.epsilon};
  int depth = 0;
  for (size_t p = 0; p < params.planes.size(); ++p) {
    depth += 1 - params.adds_after_plane[p];
    if (params.adds_after_plane[p] < 0 || depth < 1 || depth > 7) return Unfit("add and norm", "the adds are not those of a tree");
    kernel.planes[p] = params.planes[p];
    kernel.adds[p] = static_cast<int8_t>(params.adds_after_plane[p]);
  }
  if (depth > 1) return Unfit("add and norm", "the adds do not end in one sum");
  if (norm) kernel.out = out->view();
  return device_->Check(cuda::LaunchAddNorm(kernel, device_->stream()), "add and norm");
}

absl::Status CudaBackend::Quantize(F32View in, Activation& out) {
  const auto& activation = static_cast<const CudaActivation&>(out);
  if (in.columns != activation.columns() || in.rows > activation.max_rows() || in.stride < in.columns) {
    return Unfit("quantise", absl::StrCat("[", in.rows, ", ", in.columns, "] into [", activation.max_rows(), ", ", activation.columns(), "]"));
  }
  return device_->Check(
      cuda::LaunchQuantize({.in = in.data, .stride = in.stride, .rows = in.rows, .out = activation.view()}, device_->stream()), "quantise");
}

absl::Status CudaBackend::GrowStack(int64_t floats) {
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (stack_.bytes() >= bytes) return absl::OkStatus();
  if (steps_.recording()) return absl::InternalError("scratch memory must grow within a recorded step");
  steps_.ForgetAll();
  if (absl::Status status = device_->Synchronize("wait for products"); !status.ok()) return status;
  stack_ = {};
  auto memory = DeviceMemory::New(*device_, bytes, "unfinished sums");
  if (!memory.ok()) return memory.status();
  stack_ = *std::move(memory);
  return absl::OkStatus();
}

absl::Status CudaBackend::MatMul(const MatMulParams& params) {
  if (params.rows == 0) return absl::OkStatus();
  const auto& matrix = static_cast<const CudaPackedMatrix&>(*params.matrix);
  const auto& input = static_cast<const CudaActivation&>(*params.input);
  if (params.rows < 0 || params.rows > input.max_rows() || input.columns() != matrix.columns() || params.row_stride < matrix.rows() ||
      (matrix.planes() > 1 && params.plane_stride < params.rows * params.row_stride)) {
    return Unfit("matrix product", absl::StrCat(params.rows, " rows of ", input.columns(), " columns by ", matrix.columns(),
                                                " columns, out rows ", params.row_stride, " apart"));
  }
  for (const CudaPackedMatrix::Segment& segment : matrix.segments()) {
    cuda::GemmParams gemm{.format = segment.format,
                          .records = segment.records.as<uint8_t>(),
                          .rows = segment.rows,
                          .blocks = static_cast<int>(matrix.columns() / 32),
                          .slices = matrix.slices(),
                          .slice_count = matrix.slice_count(),
                          .max_depth = matrix.max_depth(),
                          .activation_bits = cpu::TraitsOf(static_cast<WeightFormat>(segment.format)).is_float ? 0 : matrix.activation_bits(),
                          .input = input.view(),
                          .tokens = params.rows,
                          .bias = matrix.bias() != nullptr ? matrix.bias() + segment.first_row : nullptr,
                          .out = params.out + segment.first_row,
                          .row_stride = params.row_stride,
                          .plane_stride = params.plane_stride,
                          .shared_limit = device_->shared_limit()};
    if (warpgroups_ && gemm.tokens > kFewTokens && gemm.input.blocked != nullptr && IsHalf(segment.format)) {
      if (absl::Status status = device_->Check(cuda::LaunchGemmWarpgroup(gemm, device_->stream()), "matrix product"); !status.ok()) return status;
      continue;
    }
    if (absl::Status status = GrowStack(cuda::GemmStackFloats(gemm)); !status.ok()) return status;
    gemm.stack = stack_.as<float>();
    if (absl::Status status = device_->Check(cuda::LaunchGemm(gemm, device_->stream()), "matrix product"); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::RopeAndStore(F32View qkv, const StepRows& step, const RopeParams& rope, const AttentionParams& attention,
                                       KvCache& cache) {
  if (step.rows == 0) return absl::OkStatus();
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  if (!StepFits(step) || attention.layer < 0 || attention.layer >= kv.shape().layers || qkv.stride < qkv.columns ||
      qkv.columns != static_cast<int64_t>(attention.query_heads + 2 * attention.kv_heads) * attention.head_dim ||
      qkv.rows < step.rows) {
    return Unfit("rope and store", absl::StrCat("layer ", attention.layer, ", qkv of ", qkv.columns, " columns; was the step begun?"));
  }
  return device_->Check(cuda::LaunchRopeStore({.qkv = qkv.data,
                                               .stride = qkv.stride,
                                               .rows = step.rows,
                                               .query_heads = attention.query_heads,
                                               .frequencies = step_.frequencies(),
                                               .pairs = static_cast<int>(rope.frequencies.size()),
                                               .interleaved = rope.interleaved,
                                               .magnitude = rope.magnitude,
                                               .kv = kv.view(attention.layer),
                                               .step = step_.view()},
                                              device_->stream()),
                        "rope and store");
}

absl::Status CudaBackend::Attend(F32View qkv, const StepRows& step, const AttentionParams& attention, const KvCache& cache,
                                 F32View out) {
  if (step.rows == 0) return absl::OkStatus();
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  if (!StepFits(step) || attention.layer < 0 || attention.layer >= kv.shape().layers || out.rows < step.rows ||
      out.stride < out.columns || out.columns != static_cast<int64_t>(attention.query_heads) * attention.head_dim) {
    return Unfit("attention", absl::StrCat("an output of [", out.rows, ", ", out.columns, "] for ", step.rows, " rows"));
  }
  // A recorded step is replayed with other counts: then as many blocks as there ever may be.
  const int most = AttentionBlocks(kv.shape());
  const bool fixed = steps_.recording();
  const int units = fixed ? most : std::min(most, step_.unit_count());
  const int joins = fixed ? most : std::min(most, (step_.join_count() + cuda::kAttentionWarps - 1) / cuda::kAttentionWarps);
  return device_->Check(cuda::LaunchAttend({.qkv = qkv.data,
                                            .qkv_stride = qkv.stride,
                                            .out = out.data,
                                            .out_stride = out.stride,
                                            .kv = kv.view(attention.layer),
                                            .step = step_.view(),
                                            .head_begin = step_.head_begin(),
                                            .head_order = step_.head_order(),
                                            .scale = attention.softmax_scale,
                                            .sliding_window = attention.sliding_window,
                                            .stages = cuda::AttentionStages(kv.view(0).tile_bytes),
                                            .units = step_.units(),
                                            .joins = step_.joins(),
                                            .counts = step_.counts(),
                                            .unit_grid = units,
                                            .join_grid = joins,
                                            .partial_o = step_.partial_o(),
                                            .partial_ml = step_.partial_ml()},
                                           device_->stream()),
                        "attention");
}

absl::Status CudaBackend::GatedActivation(F32View gate_up, GateKind kind, Activation& out) {
  const auto& activation = static_cast<const CudaActivation&>(out);
  if (gate_up.columns != 2 * activation.columns() || gate_up.rows > activation.max_rows() || gate_up.stride < gate_up.columns) {
    return Unfit("gated activation", absl::StrCat("[", gate_up.rows, ", ", gate_up.columns, "] into [", activation.max_rows(), ", ",
                                                  activation.columns(), "]"));
  }
  return device_->Check(cuda::LaunchGate({.gate_up = gate_up.data,
                                          .stride = gate_up.stride,
                                          .rows = gate_up.rows,
                                          .gelu = kind == GateKind::kGelu,
                                          .out = activation.view()},
                                         device_->stream()),
                        "gated activation");
}

absl::Status CudaBackend::CopyBlocks(std::span<const BlockCopy> copies, KvCache& cache) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  for (const BlockCopy& copy : copies) {
    if (copy.from < 0 || copy.from >= kv.shape().blocks || copy.to < 0 || copy.to >= kv.shape().blocks || copy.from == copy.to) {
      return Unfit("copy blocks", absl::StrCat(copy.from, " to ", copy.to, " of ", kv.shape().blocks));
    }
  }
  if (copies.empty()) return absl::OkStatus();
  static_assert(sizeof(BlockCopy) == sizeof(int2));
  const auto staged = Stage(copies.data(), copies.size_bytes());
  if (!staged.ok()) return staged.status();
  return device_->Check(cuda::LaunchCopyBlocks({.copies = static_cast<const int2*>(*staged),
                                                .count = static_cast<int>(copies.size()),
                                                .base = kv.view(0).layer,
                                                .block_bytes = kv.view(0).block_bytes,
                                                .layer_bytes = kv.layer_bytes(),
                                                .layers = kv.shape().layers},
                                               device_->stream()),
                        "copy blocks");
}

absl::Status CudaBackend::Sample(F32View logits, std::span<const SampleRow> rows, std::span<int32_t> tokens) {
  if (rows.empty()) return absl::OkStatus();
  if (tokens.size() != rows.size() || logits.stride < logits.columns) return Unfit("sample", "shapes differ");
  std::vector<cuda::SampleRowParams> params;
  std::vector<cuda::SampleEdit> edits;
  for (const SampleRow& row : rows) {
    if (row.row < 0 || row.row >= logits.rows) return Unfit("sample", absl::StrCat("row ", row.row, " of ", logits.rows));
    params.push_back({.row = row.row,
                      .first_edit = static_cast<int32_t>(edits.size()),
                      .edits = static_cast<int32_t>(row.edits.size()),
                      .repetition = row.repetition,
                      .frequency = row.frequency,
                      .presence = row.presence,
                      .factor = row.factor,
                      .top_k = row.top_k,
                      .top_p = row.top_p,
                      .least = row.least,
                      .uniform = row.uniform});
    for (const SampleEdit& edit : row.edits) {
      if (edit.token < 0 || edit.token >= logits.columns) return Unfit("sample", absl::StrCat("token ", edit.token));
      const uint32_t times = static_cast<uint32_t>(std::max(edit.output, 0)) << 2;
      edits.push_back({edit.token, times | (edit.seen ? 2u : 0u) | (edit.forbid ? 1u : 0u), edit.bias});
    }
  }
  const size_t row_bytes = params.size() * sizeof(params[0]);
  std::vector<uint8_t> staged(row_bytes + edits.size() * sizeof(cuda::SampleEdit));
  std::memcpy(staged.data(), params.data(), row_bytes);
  if (!edits.empty()) std::memcpy(staged.data() + row_bytes, edits.data(), edits.size() * sizeof(cuda::SampleEdit));
  const auto arguments = Stage(staged.data(), staged.size());
  if (!arguments.ok()) return arguments.status();
  const size_t plane = rows.size() * static_cast<size_t>(logits.columns) * sizeof(float);
  const size_t wanted = 2 * plane + rows.size() * sizeof(int32_t);
  if (sampling_.bytes() < wanted) {
    sampling_ = {};
    auto memory = DeviceMemory::New(*device_, wanted, "sampling");
    if (!memory.ok()) return memory.status();
    sampling_ = *std::move(memory);
  }
  auto* out = reinterpret_cast<int32_t*>(sampling_.as<uint8_t>() + 2 * plane);
  const auto* base = static_cast<const uint8_t*>(*arguments);
  const cuda::SampleKernelParams kernel{.logits = logits.data,
                                        .stride = logits.stride,
                                        .vocabulary = static_cast<int>(logits.columns),
                                        .rows = reinterpret_cast<const cuda::SampleRowParams*>(base),
                                        .count = static_cast<int>(rows.size()),
                                        .edits = reinterpret_cast<const cuda::SampleEdit*>(base + row_bytes),
                                        .edited = sampling_.as<float>(),
                                        .weights = reinterpret_cast<uint32_t*>(sampling_.as<uint8_t>() + plane),
                                        .tokens = out};
  if (absl::Status status = device_->Check(cuda::LaunchSample(kernel, device_->stream()), "sample"); !status.ok()) return status;
  return device_->Download(out, tokens.data(), tokens.size_bytes());
}

}  // namespace

int CudaDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options) {
  auto device = Device::Open(options.device);
  if (!device.ok()) return device.status();
  cuda::AllowOverlap(options.overlap && (*device)->capability() >= 90);
  return std::make_unique<CudaBackend>(*std::move(device), options);
}

}  // namespace pagoda::kernels
