#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/backend_of_table.h"

namespace pagoda::kernels {
namespace cpu {
namespace {

// What of the input of a matrix product should stay in the second-level cache while the weights go by.
constexpr int64_t kInputBytesAtOnce = 384 << 10;

}  // namespace
// Grown only between jobs, by the caller's thread.
float* CpuBackend::Scratch(int thread, int64_t floats) {
  ThreadScratch& scratch = scratch_[thread];
  if (scratch.floats < floats) {
    scratch.memory = MapMemory(floats * sizeof(float) + 64);
    scratch.floats = scratch.memory == nullptr ? 0 : floats;
  }
  return reinterpret_cast<float*>(scratch.memory.get());
}

absl::StatusOr<std::unique_ptr<Buffer>> CpuBackend::NewBuffer(size_t bytes) {
  Memory memory = MapMemory(bytes + 64);
  if (memory == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  return std::make_unique<CpuBuffer>(std::move(memory), bytes);
}

absl::StatusOr<std::unique_ptr<Activation>> CpuBackend::NewActivation(int64_t max_rows, int64_t columns,
                                                                      ActivationForms forms) {
  return CpuActivation::Make(max_rows, columns, forms);
}

absl::StatusOr<std::unique_ptr<KvCache>> CpuBackend::NewKvCache(const KvShape& shape) {
  return CpuKvCache::Make(shape);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> CpuBackend::Pack(std::span<const MatrixRows> parts,
                                                               const PackOptions& options) {
  return PackMatrix(parts, options, arena_, team_);
}

absl::Status CpuBackend::Embed(const MatrixRows& table, std::span<const int32_t> tokens, F32View out) {
  const int64_t rows = static_cast<int64_t>(tokens.size());
  if (table.columns % TraitsOf(table.format).block_columns != 0 || out.columns != table.columns ||
      out.rows < rows || out.stride < out.columns) {
    return Unfit("embed", absl::StrCat("a table of ", table.columns, " columns into [", out.rows, ", ", out.columns,
                                       "] for ", rows, " tokens"));
  }
  for (int32_t token : tokens) {
    if (token < 0 || token >= table.rows) {
      return Unfit("embed", absl::StrCat("token ", token, " of a vocabulary of ", table.rows));
    }
  }
  const int64_t row_bytes = RowBytes(table.format, table.columns);
  ForRows(rows, [&](int, int64_t r) {
    DequantizeRow(table.format, table.data + tokens[r] * row_bytes, table.columns, out.data + r * out.stride);
  });
  return absl::OkStatus();
}

void CpuBackend::QuantizeForms(const float* in, int64_t row, const CpuActivation& out) {
  QuantizePart(in, row, 0, out.columns() / kQuantBlock, out);
}

void CpuBackend::QuantizePart(const float* in, int64_t row, int64_t first, int64_t count, const CpuActivation& out) {
  for (int bits : {8, 12}) {
    const QuantRows* quant = out.quant(bits);
    if (quant != nullptr) kernels_.quantize({.in = in, .first = row * quant->blocks + first, .count = count}, *quant);
  }
}

void CpuBackend::QuantizeColumn(const float* in, int64_t in_stride, int64_t first_row, int64_t rows, int64_t block,
                                const CpuActivation& out) {
  for (int bits : {8, 12}) {
    const QuantRows* quant = out.quant(bits);
    if (quant == nullptr) continue;
    kernels_.quantize({in, in_stride, first_row * quant->blocks + block, quant->blocks, rows}, *quant);
  }
}

absl::Status CpuBackend::AddNorm(const AddNormParams& params) {
  const F32View& residual = params.residual;
  auto* out = static_cast<CpuActivation*>(params.out);
  const bool norm = params.norm_weight != nullptr && out != nullptr;
  if (residual.stride < residual.columns || params.planes.size() != params.adds_after_plane.size() ||
      (norm && (out->columns() != residual.columns || out->max_rows() < residual.rows))) {
    return Unfit("add and norm", absl::StrCat("a residual of [", residual.rows, ", ", residual.columns, "] with ",
                                              params.planes.size(), " planes and ", params.adds_after_plane.size(),
                                              " plane adds does not fit the output"));
  }
  int depth = 0;
  for (int adds : params.adds_after_plane) {
    depth += 1 - adds;
    if (adds < 0 || depth < 1 || depth > kMaxTreeDepth) return Unfit("add and norm", "the adds are not those of a tree");
  }
  if (depth > 1) return Unfit("add and norm", "the adds do not end in one sum");
  const int planes = static_cast<int>(params.planes.size());
  const int64_t scratch_floats = residual.columns + planes * 2 + 32;
  for (int t = 0; t < team_.threads(); ++t) {
    if (Scratch(t, scratch_floats) == nullptr) return absl::ResourceExhaustedError("add and norm: no scratch memory");
  }
  ForRows(residual.rows, [&](int thread, int64_t r) {
    float* scratch = Scratch(thread, scratch_floats);
    auto** plane_rows = reinterpret_cast<const float**>(scratch);
    for (int p = 0; p < planes; ++p) plane_rows[p] = params.planes[p] + r * residual.columns;
    AddNormRow row;
    row.residual = residual.data + r * residual.stride;
    row.columns = residual.columns;
    row.planes = plane_rows;
    row.adds = params.adds_after_plane.data();
    row.plane_count = planes;
    row.norm_weight = norm ? params.norm_weight : nullptr;
    row.epsilon = params.epsilon;
    if (norm) row.normed = out->row(r) != nullptr ? out->row(r) : scratch + (planes * 2 + 15) / 16 * 16;
    kernels_.add_norm_row(row);
    if (norm) QuantizeForms(row.normed, r, *out);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::Quantize(F32View in, Activation& out) {
  auto& activation = static_cast<CpuActivation&>(out);
  if (in.columns != activation.columns() || in.rows > activation.max_rows() || in.stride < in.columns) {
    return Unfit("quantise", absl::StrCat("[", in.rows, ", ", in.columns, "] into [", activation.max_rows(), ", ",
                                          activation.columns(), "]"));
  }
  ForRows(in.rows, [&](int, int64_t r) {
    const float* row = in.data + r * in.stride;
    if (activation.row(r) != nullptr && activation.row(r) != row) {
      std::memcpy(activation.row(r), row, in.columns * sizeof(float));
    }
    QuantizeForms(row, r, activation);
  });
  return absl::OkStatus();
}

// Tiles are cut evenly into a few slices a thread; many tokens are also cut so that a slice's input stays in the cache.
void CpuBackend::CutMatMul(const CpuPackedMatrix& matrix, int64_t rows) {
  slices_.clear();
  const int threads = team_.threads();
  const int64_t unit = kernels_.tiles_at_once(rows);
  const int64_t by_cache = std::max<int64_t>(48, kInputBytesAtOnce / matrix.columns() / 48 * 48);
  const int64_t chunk = std::min(rows, by_cache);
  for (int64_t token = 0; token < rows; token += chunk) {
    for (const PackedSegment& segment : matrix.segments()) {
      const int64_t units = (segment.tiles + unit - 1) / unit;
      const int64_t wanted = threads == 1 ? 1 : std::min<int64_t>(units, 4 * threads);
      for (int64_t i = 0; i < wanted; ++i) {
        const int64_t begin = std::min(units * i / wanted * unit, segment.tiles);
        const int64_t end = std::min(units * (i + 1) / wanted * unit, segment.tiles);
        if (begin < end) slices_.push_back({&segment, begin, end - begin, token, std::min(chunk, rows - token)});
      }
    }
  }
}

void CpuBackend::RunSlice(const CpuPackedMatrix& matrix, const CpuActivation& input, const MatMulSlice& slice, float* out,
                          int64_t row_stride, int64_t plane_stride) {
  const PackedSegment& segment = *slice.segment;
  const bool is_float = TraitsOf(segment.format).is_float;
  GemmTask task;
  task.tiles = segment.data.get() + slice.first_tile * segment.tile_bytes;
  task.tile_bytes = segment.tile_bytes;
  task.scales_at = segment.scales_at;
  task.supers_at = segment.supers_at;
  task.super_phase = segment.super_phase;
  task.tile_count = static_cast<int>(slice.tiles);
  const int64_t end_row = std::min(segment.rows, (slice.first_tile + slice.tiles) * kTileRows);
  task.last_rows = static_cast<int>(end_row - (slice.first_tile + slice.tiles - 1) * kTileRows);
  task.blocks = matrix.columns() / kQuantBlock;
  task.quant = is_float ? nullptr : input.quant(matrix.activation_bits());
  task.input = is_float ? input.row(0) : nullptr;
  task.first_token = slice.first_token;
  task.tokens = slice.tokens;
  task.steps = matrix.steps().data();
  task.step_count = static_cast<int>(matrix.steps().size());
  if (!segment.bias.empty()) task.bias = segment.bias.data() + slice.first_tile * kTileRows;
  task.out = out;
  task.row_stride = row_stride;
  task.plane_stride = plane_stride;
  kernels_.gemm[static_cast<int>(segment.format)][matrix.activation_bits() == 12 && !is_float](task);
}

absl::Status CpuBackend::CheckMatMul(const MatMulParams& params) {
  const auto& matrix = static_cast<const CpuPackedMatrix&>(*params.matrix);
  const auto& input = static_cast<const CpuActivation&>(*params.input);
  if (params.rows < 0 || params.rows > input.max_rows() || input.columns() != matrix.columns() ||
      params.row_stride < matrix.rows() || (matrix.planes() > 1 && params.plane_stride < params.rows * params.row_stride)) {
    return Unfit("matrix product", absl::StrCat(params.rows, " rows of ", input.columns(), " columns by ", matrix.columns(),
                                                " columns, out rows ", params.row_stride, " apart"));
  }
  for (const PackedSegment& segment : matrix.segments()) {
    const bool is_float = TraitsOf(segment.format).is_float;
    if (is_float ? input.row(0) == nullptr : input.quant(matrix.activation_bits()) == nullptr) {
      return Unfit("matrix product", "the input was not made in the form that the weights need");
    }
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::MatMul(const MatMulParams& params) {
  if (params.rows == 0) return absl::OkStatus();
  if (absl::Status status = CheckMatMul(params); !status.ok()) return status;
  const auto& matrix = static_cast<const CpuPackedMatrix&>(*params.matrix);
  const auto& input = static_cast<const CpuActivation&>(*params.input);
  CutMatMul(matrix, params.rows);
  team_.Run(static_cast<int64_t>(slices_.size()), [&](int, int64_t i) {
    const MatMulSlice& slice = slices_[i];
    RunSlice(matrix, input, slice,
             params.out + slice.first_token * params.row_stride + slice.segment->first_row + slice.first_tile * kTileRows,
             params.row_stride, params.plane_stride);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::CheckStep(absl::string_view operation, F32View qkv, const StepRows& step,
                                   const AttentionParams& attention, const CpuKvCache& cache) const {
  const KvShape& shape = cache.shape();
  if (attention.layer < 0 || attention.layer >= shape.layers || attention.kv_heads != shape.kv_heads ||
      attention.head_dim != shape.head_dim || attention.query_heads <= 0 ||
      static_cast<int>(attention.kv_head_of.size()) != attention.query_heads ||
      qkv.columns != static_cast<int64_t>(attention.query_heads + 2 * attention.kv_heads) * attention.head_dim ||
      qkv.stride < qkv.columns || qkv.rows < step.rows) {
    return Unfit(operation, absl::StrCat("layer ", attention.layer, ", ", attention.query_heads, " query and ",
                                         attention.kv_heads, " KV heads of ", attention.head_dim,
                                         " do not fit the cache or qkv of ", qkv.columns, " columns"));
  }
  for (int32_t kv : attention.kv_head_of) {
    if (kv < 0 || kv >= attention.kv_heads) return Unfit(operation, absl::StrCat("KV head ", kv));
  }
  for (const SequenceRows& sequence : step.sequences) {
    const int64_t last = sequence.first_position + sequence.rows - 1;
    if (sequence.first_row < 0 || sequence.rows < 0 || sequence.first_row + sequence.rows > step.rows ||
        sequence.first_position < 0 ||
        (sequence.rows > 0 && last / shape.block_tokens >= static_cast<int64_t>(sequence.blocks.size()))) {
      return Unfit(operation, absl::StrCat("rows [", sequence.first_row, ", ", sequence.first_row + sequence.rows, ") of ",
                                           step.rows, " at position ", sequence.first_position, " with ",
                                           sequence.blocks.size(), " blocks"));
    }
    for (int32_t block : sequence.blocks) {
      if (block < 0 || block >= shape.blocks) {
        return Unfit(operation, absl::StrCat("block ", block, " of a cache of ", shape.blocks));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::PlaceRows(const StepRows& step, const RopeParams& rope, const AttentionParams& attention) {
  const int pairs = static_cast<int>(rope.frequencies.size());
  if (2 * pairs > attention.head_dim) {
    return Unfit("rope and store", absl::StrCat(pairs, " frequencies for heads of ", attention.head_dim));
  }
  places_.assign(step.rows, RowPlace{});
  rope_rows_.assign(step.rows, nullptr);
  rope_.Trim();
  for (const SequenceRows& sequence : step.sequences) {
    for (int i = 0; i < sequence.rows; ++i) {
      const int64_t position = sequence.first_position + i;
      places_[sequence.first_row + i] = {&sequence, position};
      if (pairs > 0) rope_rows_[sequence.first_row + i] = rope_.At(rope, position);
    }
  }
  return absl::OkStatus();
}

void CpuBackend::RopeHeads(float* heads, int64_t r, int count, int dim, const RopeParams& rope) {
  const int pairs = static_cast<int>(rope.frequencies.size());
  const float* cosine = rope_rows_[r];
  for (int h = 0; h < count && pairs > 0; ++h) {
    kernels_.rope_row({heads + static_cast<int64_t>(h) * dim, cosine, cosine + pairs, pairs, rope.interleaved});
  }
}

void CpuBackend::StoreHead(const float* key, const float* value, int64_t r, int kv_head, int layer, CpuKvCache& cache) {
  const KvLayout& layout = cache.layout();
  const int64_t position = places_[r].position;
  const int32_t block = places_[r].sequence->blocks[position / layout.block_tokens];
  uint8_t* head = cache.layer(layer) + block * layout.block_bytes + kv_head * layout.head_bytes;
  kernels_.store_row({&layout, head, static_cast<int>(position % layout.block_tokens), key, value});
}

absl::Status CpuBackend::RopeAndStore(F32View qkv, const StepRows& step, const RopeParams& rope,
                                      const AttentionParams& attention, KvCache& cache) {
  auto& kv = static_cast<CpuKvCache&>(cache);
  if (absl::Status status = CheckStep("rope and store", qkv, step, attention, kv); !status.ok()) return status;
  if (absl::Status status = PlaceRows(step, rope, attention); !status.ok()) return status;
  const int dim = attention.head_dim;
  ForRows(step.rows, [&](int, int64_t r) {
    if (places_[r].sequence == nullptr) return;
    float* row = qkv.data + r * qkv.stride;
    RopeHeads(row, r, attention.query_heads + attention.kv_heads, dim, rope);
    for (int h = 0; h < attention.kv_heads; ++h) {
      const float* key = row + static_cast<int64_t>(attention.query_heads + h) * dim;
      StoreHead(key, key + static_cast<int64_t>(attention.kv_heads) * dim, r, h, attention.layer, kv);
    }
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::Attend(F32View qkv, const StepRows& step, const AttentionParams& attention,
                                const KvCache& cache, F32View out) {
  return AttendParts(qkv, step, attention, static_cast<const CpuKvCache&>(cache), out, nullptr);
}

absl::Status CpuBackend::AttendParts(F32View qkv, const StepRows& step, const AttentionParams& attention,
                                     const CpuKvCache& kv, F32View out, CpuActivation* forms) {
  if (absl::Status status = CheckStep("attention", qkv, step, attention, kv); !status.ok()) return status;
  if (out.rows < step.rows || out.stride < out.columns ||
      out.columns != static_cast<int64_t>(attention.query_heads) * attention.head_dim) {
    return Unfit("attention", absl::StrCat("an output of [", out.rows, ", ", out.columns, "] for ", step.rows, " rows"));
  }
  const KvLayout& layout = kv.layout();
  const int64_t floats = AttendScratchFloats(layout.padded_dim);
  for (int t = 0; t < team_.threads(); ++t) {
    if (Scratch(t, floats) == nullptr) return absl::ResourceExhaustedError("attention: no scratch memory");
  }
  const AttendPlan plan = PlanAttention(step, attention, team_.threads());
  team_.Run(static_cast<int64_t>(plan.parts.size()), [&](int thread, int64_t i) {
    const AttendPart& part = plan.parts[i];
    const SequenceRows& sequence = step.sequences[part.sequence];
    const int64_t row = sequence.first_row + part.row;
    AttendTask task;
    task.layout = &layout;
    task.layer = kv.layer(attention.layer);
    task.kv_head = part.kv_head;
    task.blocks = sequence.blocks.data();
    task.first_position = sequence.first_position + part.row;
    task.rows = part.rows;
    task.heads = part.heads;
    task.head_ids = plan.head_order.data() + part.first_head;
    task.query = qkv.data + row * qkv.stride;
    task.query_stride = qkv.stride;
    task.out = out.data + row * out.stride;
    task.out_stride = out.stride;
    task.scale = attention.softmax_scale;
    task.sliding_window = attention.sliding_window;
    task.scratch = Scratch(thread, floats);
    kernels_.attend(task);
    if (forms == nullptr) return;
    for (int h = 0; h < part.heads; ++h) {
      const int64_t first = static_cast<int64_t>(task.head_ids[h]) * attention.head_dim;
      for (int r = 0; r < part.rows && forms->row(0) != nullptr; ++r) {
        std::memcpy(forms->row(row + r) + first, task.out + r * out.stride + first, attention.head_dim * sizeof(float));
      }
      for (int64_t c = first; c < first + attention.head_dim; c += kQuantBlock) {
        QuantizeColumn(task.out + c, out.stride, row, part.rows, c / kQuantBlock, *forms);
      }
    }
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::GatedActivation(F32View gate_up, GateKind kind, Activation& out) {
  auto& activation = static_cast<CpuActivation&>(out);
  const int64_t columns = activation.columns();
  if (gate_up.columns != 2 * columns || gate_up.rows > activation.max_rows() || gate_up.stride < gate_up.columns) {
    return Unfit("gated activation", absl::StrCat("[", gate_up.rows, ", ", gate_up.columns, "] into [",
                                                  activation.max_rows(), ", ", columns, "]"));
  }
  for (int t = 0; t < team_.threads(); ++t) {
    if (Scratch(t, columns) == nullptr) return absl::ResourceExhaustedError("gated activation: no scratch memory");
  }
  ForRows(gate_up.rows, [&](int thread, int64_t r) {
    const float* gate = gate_up.data + r * gate_up.stride;
    float* result = activation.row(r) != nullptr ? activation.row(r) : Scratch(thread, columns);
    kernels_.gate_row({gate, gate + columns, columns, kind == GateKind::kGelu, result});
    QuantizeForms(result, r, activation);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::CopyBlocks(std::span<const BlockCopy> copies, KvCache& cache) {
  auto& kv = static_cast<CpuKvCache&>(cache);
  const int blocks = kv.shape().blocks;
  for (const BlockCopy& copy : copies) {
    if (copy.from < 0 || copy.from >= blocks || copy.to < 0 || copy.to >= blocks || copy.from == copy.to) {
      return Unfit("copy blocks", absl::StrCat(copy.from, " to ", copy.to, " of ", blocks));
    }
  }
  const int64_t bytes = kv.layout().block_bytes;
  for (int layer = 0; layer < kv.shape().layers; ++layer) {
    for (const BlockCopy& copy : copies) {
      std::memcpy(kv.layer(layer) + copy.to * bytes, kv.layer(layer) + copy.from * bytes, bytes);
    }
  }
  return absl::OkStatus();
}

}  // namespace cpu

namespace {

Isa BestIsa() {
  for (Isa isa : {Isa::kAmx, Isa::kAvx512, Isa::kAvx2}) {
    if (IsaSupported(isa)) return isa;
  }
  return Isa::kScalar;
}

const cpu::KernelTable& TableFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return cpu::Avx2Kernels();
    case Isa::kAmx:
      return cpu::AmxKernels();
    case Isa::kAvx512:
      return cpu::Avx512Kernels();
    default:
      return cpu::ScalarKernels();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuBackendOptions& options) {
  if (options.threads < 1 || options.threads > 1024 || options.spin_us < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a CPU backend of ", options.threads, " threads that spin ", options.spin_us, " us"));
  }
  const Isa isa = options.isa == Isa::kAuto ? BestIsa() : options.isa;
  if (!IsaSupported(isa)) {
    return absl::UnimplementedError(absl::StrCat("this machine has no ", absl::string_view(NameOf(isa).data()),
                                                 "; choose another instruction set, or auto"));
  }
  return MakeCpuBackendOf(options, isa, TableFor(isa));
}

std::unique_ptr<Backend> MakeCpuBackendOf(const CpuBackendOptions& options, Isa isa, const cpu::KernelTable& kernels) {
  return std::make_unique<cpu::CpuBackend>(options, isa, kernels);
}

}  // namespace pagoda::kernels
