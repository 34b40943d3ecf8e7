#include "worker/model/shard.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "checkpoint/dequantize.h"
#include "checkpoint/sha256.h"

namespace pagoda::worker {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;
using checkpoint::TensorRole;
using checkpoint::TensorType;
using kernels::MatrixRows;
using kernels::PackedMatrix;
using kernels::PackOptions;
using kernels::WeightFormat;

static_assert(static_cast<int>(TensorType::kF32) == static_cast<int>(WeightFormat::kF32));
static_assert(static_cast<int>(TensorType::kBF16) == static_cast<int>(WeightFormat::kBF16));
static_assert(static_cast<int>(TensorType::kQ4_0) == static_cast<int>(WeightFormat::kQ4_0));
static_assert(static_cast<int>(TensorType::kQ8_0) == static_cast<int>(WeightFormat::kQ8_0));
static_assert(static_cast<int>(TensorType::kQ2_K) == static_cast<int>(WeightFormat::kQ2_K));
static_assert(static_cast<int>(TensorType::kQ6_K) == static_cast<int>(WeightFormat::kQ6_K));

constexpr int64_t kHeadPieceRows = 8192;  // whole tiles of any backend

WeightFormat FormatOf(TensorType type) { return static_cast<WeightFormat>(type); }

// Rows of one tensor, kept alive for as long as the view is used.
struct HeldRows {
  Checkpoint::Bytes bytes;
  MatrixRows view;
};

class Loader {
 public:
  Loader(Shard& shard, kernels::Backend& backend, const LoadProgress& progress)
      : shard_(shard), model_(*shard.request.model), backend_(backend), progress_(progress) {}

  absl::Status Load() {
    const int layers = shard_.request.layer_end - shard_.request.layer_begin;
    units_total_ = layers * 4 + (shard_.first() ? 1 : 0) + (shard_.last() ? 2 : 0);
    PAGODA_RETURN_IF_ERROR(LoadNorms());
    for (int i = 0; i < layers; ++i) {
      PAGODA_RETURN_IF_ERROR(LoadLayer(shard_.request.layer_begin + i, shard_.layers[static_cast<size_t>(i)]));
    }
    if (shard_.first()) PAGODA_RETURN_IF_ERROR(LoadEmbedding());
    if (shard_.last()) PAGODA_RETURN_IF_ERROR(LoadHead());
    return absl::OkStatus();
  }

 private:
  // What the products' inputs are quantised to: qkv and head are the ones that need 12 bits most (design section 5).
  int WideBits() const { return 12; }
  int NarrowBits() const { return shard_.request.activation_bits; }

  absl::Status Step() {
    ++units_done_;
    if (progress_ && !progress_(static_cast<double>(units_done_) / units_total_)) {
      return absl::CancelledError("the load was stopped");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<HeldRows> Rows(TensorRole role, int layer, IndexRange rows) {
    PAGODA_ASSIGN_OR_RETURN(const TensorInfo* tensor, model_.Find(role, layer));
    absl::StatusOr<Checkpoint::Bytes> bytes = model_.ReadRows(*tensor, rows.begin, rows.end);
    if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("reading ", tensor->name));
    HeldRows held{.bytes = *std::move(bytes)};
    held.view = {.format = FormatOf(tensor->type), .rows = rows.size(), .columns = tensor->columns,
                 .data = held.bytes.data};
    return held;
  }

  absl::Status Vector(TensorRole role, int layer, IndexRange range, float* out) {
    PAGODA_ASSIGN_OR_RETURN(const TensorInfo* tensor, model_.Find(role, layer));
    absl::StatusOr<Checkpoint::Bytes> bytes = model_.ReadRows(*tensor, 0, tensor->rows);
    if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("reading ", tensor->name));
    std::vector<float> all(static_cast<size_t>(tensor->rows * tensor->columns));
    checkpoint::Dequantize(tensor->type, {bytes->data, bytes->size}, all);
    if (range.end > static_cast<int64_t>(all.size())) {
      return absl::InvalidArgumentError(absl::StrCat(tensor->name, " has ", all.size(), " elements, expected ", range.end));
    }
    std::copy(all.begin() + range.begin, all.begin() + range.end, out);
    return absl::OkStatus();
  }

  absl::Status LoadNorms() {
    const size_t hidden = static_cast<size_t>(shard_.spec.hidden);
    const size_t layers = static_cast<size_t>(shard_.request.layer_end - shard_.request.layer_begin);
    PAGODA_ASSIGN_OR_RETURN(shard_.norms, backend_.NewBuffer((2 * layers + 1) * hidden * sizeof(float)));
    shard_.bytes += static_cast<int64_t>(shard_.norms->bytes());
    std::vector<float> values((2 * layers + 1) * hidden);
    float* data = values.data();
    const float* place = static_cast<const float*>(shard_.norms->data());
    const IndexRange all{0, shard_.spec.hidden};
    shard_.layers.resize(layers);
    for (size_t i = 0; i < layers; ++i) {
      const int layer = shard_.request.layer_begin + static_cast<int>(i);
      PAGODA_RETURN_IF_ERROR(Vector(TensorRole::kAttentionNorm, layer, all, data));
      shard_.layers[i].attention_norm = place + (data - values.data());
      data += hidden;
      PAGODA_RETURN_IF_ERROR(Vector(TensorRole::kFfnNorm, layer, all, data));
      shard_.layers[i].ffn_norm = place + (data - values.data());
      data += hidden;
    }
    if (shard_.last()) {
      PAGODA_RETURN_IF_ERROR(Vector(TensorRole::kFinalNorm, -1, all, data));
      shard_.final_norm = place + (data - values.data());
    }
    PAGODA_RETURN_IF_ERROR(backend_.Upload(values.data(), shard_.norms->data(), values.size() * sizeof(float)));
    return shard_.last() ? Step() : absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const HeldRows> parts, const PackOptions& options,
                                                     std::string_view what, int layer) {
    std::vector<MatrixRows> views;
    for (const HeldRows& part : parts) views.push_back(part.view);
    absl::StatusOr<std::unique_ptr<PackedMatrix>> packed = backend_.Pack(views, options);
    if (!packed.ok()) {
      return Annotate(packed.status(), absl::StrCat("packing ", AsAbsl(what), " of layer ", layer));
    }
    shard_.bytes += static_cast<int64_t>((*packed)->bytes());
    PAGODA_RETURN_IF_ERROR(Step());
    return packed;
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> LoadQkv(int layer) {
    const RankPartition& mine = shard_.mine();
    const int64_t head_dim = shard_.spec.head_dim;
    const IndexRange query{mine.query_heads.begin * head_dim, mine.query_heads.end * head_dim};
    const IndexRange kv{mine.kv_heads.begin * head_dim, mine.kv_heads.end * head_dim};
    std::array<HeldRows, 3> parts;
    PAGODA_ASSIGN_OR_RETURN(parts[0], Rows(TensorRole::kQuery, layer, query));
    PAGODA_ASSIGN_OR_RETURN(parts[1], Rows(TensorRole::kKey, layer, kv));
    PAGODA_ASSIGN_OR_RETURN(parts[2], Rows(TensorRole::kValue, layer, kv));
    PackOptions options{.activation_bits = WideBits()};
    std::vector<float> bias;
    if (model_.Has(TensorRole::kQueryBias, layer)) {
      bias.resize(static_cast<size_t>(query.size() + 2 * kv.size()));
      PAGODA_RETURN_IF_ERROR(Vector(TensorRole::kQueryBias, layer, query, bias.data()));
      PAGODA_RETURN_IF_ERROR(Vector(TensorRole::kKeyBias, layer, kv, bias.data() + query.size()));
      PAGODA_RETURN_IF_ERROR(Vector(TensorRole::kValueBias, layer, kv, bias.data() + query.size() + kv.size()));
      options.bias = bias;
    }
    return Pack(parts, options, "qkv", layer);
  }

  // o and down: this rank's shards of the input columns, one plane for each subtree it owns.
  absl::StatusOr<std::unique_ptr<PackedMatrix>> LoadRowParallel(TensorRole role, int layer,
                                                                const std::vector<int64_t>& cuts) {
    const RankPartition& mine = shard_.mine();
    std::array<HeldRows, 1> parts;
    PAGODA_ASSIGN_OR_RETURN(parts[0], Rows(role, layer, mine.output_rows));
    PackOptions options{.planes = mine.planes, .first_shard = mine.shards.begin, .activation_bits = NarrowBits()};
    options.shard_columns.assign(cuts.begin() + mine.shards.begin, cuts.begin() + mine.shards.end + 1);
    return Pack(parts, options, NameOf(role), layer);
  }

  absl::Status LoadLayer(int layer, LayerWeights& weights) {
    PAGODA_ASSIGN_OR_RETURN(weights.qkv, LoadQkv(layer));
    PAGODA_ASSIGN_OR_RETURN(
        weights.output, LoadRowParallel(TensorRole::kAttentionOutput, layer, shard_.partition.attention_columns));
    std::array<HeldRows, 2> parts;
    PAGODA_ASSIGN_OR_RETURN(parts[0], Rows(TensorRole::kGate, layer, shard_.mine().ffn));
    PAGODA_ASSIGN_OR_RETURN(parts[1], Rows(TensorRole::kUp, layer, shard_.mine().ffn));
    PAGODA_ASSIGN_OR_RETURN(weights.gate_up,
                            Pack(parts, PackOptions{.activation_bits = NarrowBits()}, "gate and up", layer));
    PAGODA_ASSIGN_OR_RETURN(weights.down,
                            LoadRowParallel(TensorRole::kDown, layer, shard_.partition.ffn_columns));
    return absl::OkStatus();
  }

  absl::Status LoadEmbedding() {
    PAGODA_ASSIGN_OR_RETURN(HeldRows rows, Rows(TensorRole::kTokenEmbedding, -1, {0, shard_.spec.vocabulary}));
    shard_.embedding = rows.view;
    shard_.bytes += static_cast<int64_t>(rows.bytes.size);
    PAGODA_ASSIGN_OR_RETURN(shard_.embedding_held, backend_.Hold(rows.view));
    if (shard_.embedding_held != nullptr) {
      shard_.embedding.data = static_cast<const std::byte*>(shard_.embedding_held->data());
    } else {
      shard_.embedding_bytes = std::move(rows.bytes);
    }
    return Step();
  }

  absl::Status LoadHead() {
    if (shard_.mine().vocabulary.size() == 0) return Step();
    const TensorRole role = shard_.spec.tied_embedding ? TensorRole::kTokenEmbedding : TensorRole::kOutputHead;
    // The largest tensor of most models: it goes in pieces, each let go when it is packed.
    std::vector<HeldRows> parts;
    const IndexRange all = shard_.mine().vocabulary;
    for (int64_t begin = all.begin; begin < all.end; begin += kHeadPieceRows) {
      PAGODA_ASSIGN_OR_RETURN(HeldRows piece, Rows(role, -1, {begin, std::min(begin + kHeadPieceRows, all.end)}));
      parts.push_back(std::move(piece));
    }
    PackOptions options{.activation_bits = WideBits()};
    options.consumed = [&parts](size_t part) { parts[part].bytes = {}; };
    PAGODA_ASSIGN_OR_RETURN(shard_.head, Pack(parts, options, "head", -1));
    return absl::OkStatus();
  }

  Shard& shard_;
  const Checkpoint& model_;
  kernels::Backend& backend_;
  const LoadProgress& progress_;
  int units_done_ = 0;
  int units_total_ = 1;
};

absl::Status CheckRequest(const ShardRequest& request) {
  const checkpoint::ModelSpec& spec = request.model->spec();
  if (request.layer_begin < 0 || request.layer_begin >= request.layer_end || request.layer_end > spec.layers) {
    return absl::InvalidArgumentError(absl::StrCat("layers ", request.layer_begin, " to ", request.layer_end,
                                                   " of a model that has ", spec.layers));
  }
  if (request.rank < 0 || request.rank >= request.tensor_parallel) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", request.rank, " of ", request.tensor_parallel));
  }
  if (request.activation_bits != 8 && request.activation_bits != 12) {
    return absl::InvalidArgumentError(absl::StrCat("activation bits ", request.activation_bits, ": 8 or 12"));
  }
  if (spec.norm != checkpoint::NormKind::kRms || spec.activation == checkpoint::ActivationKind::kGelu) {
    return absl::UnimplementedError(absl::StrCat("architecture ", spec.architecture,
                                                 ": only RMSNorm with a gated activation is supported by this worker"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ShardDigest(const ShardRequest& request, std::string_view numerics_profile) {
  checkpoint::Sha256 hash;
  hash.UpdateField(request.model->digest());
  hash.UpdateField(numerics_profile);
  hash.UpdateField(absl::StrCat(request.layer_begin, "-", request.layer_end, " ", request.rank, "/",
                                request.tensor_parallel, " bits ", request.activation_bits));
  return hash.FinishHex();
}

int FfnUnit(const checkpoint::Checkpoint& model) {
  for (int layer = 0; layer < model.spec().layers; ++layer) {
    const absl::StatusOr<const TensorInfo*> down = model.Find(TensorRole::kDown, layer);
    if (down.ok() && checkpoint::LayoutOf((*down)->type).weights == 256) return 256;
  }
  return 32;
}

absl::StatusOr<std::unique_ptr<Shard>> LoadShard(const ShardRequest& request, kernels::Backend& backend,
                                                 const LoadProgress& progress) {
  PAGODA_RETURN_IF_ERROR(CheckRequest(request));
  auto shard = std::make_unique<Shard>();
  shard->request = request;
  shard->spec = request.model->spec();
  PAGODA_ASSIGN_OR_RETURN(shard->partition,
                          MakePartition(shard->spec, request.tensor_parallel, FfnUnit(*request.model)));
  shard->digest = ShardDigest(request, backend.numerics_profile());
  PAGODA_RETURN_IF_ERROR(Loader(*shard, backend, progress).Load());
  return shard;
}

}  // namespace pagoda::worker
