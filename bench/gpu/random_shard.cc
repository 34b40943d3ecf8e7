#include "bench/gpu/random_shard.h"

#include <cstring>

namespace pagoda::bench {
namespace {

using kernels::MatrixRows;
using kernels::WeightFormat;

struct FileBlock {
  int columns;
  int bytes;
  int scales[2];  // where f16 scales are; -1: none
};
FileBlock BlockOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return {1, 4, {-1, -1}};
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return {1, 2, {-1, -1}};
    case WeightFormat::kQ4_0:
      return {32, 18, {0, -1}};
    case WeightFormat::kQ4_1:
      return {32, 20, {0, 2}};
    case WeightFormat::kQ8_0:
      return {32, 34, {0, -1}};
    case WeightFormat::kQ4_K:
      return {256, 144, {0, 2}};
    case WeightFormat::kQ6_K:
      return {256, 210, {208, -1}};
    default:
      return {256, 0, {-1, -1}};
  }
}

}  // namespace

std::vector<std::byte> RandomRows(WeightFormat format, int64_t rows, int64_t columns, uint64_t seed) {
  const FileBlock block = BlockOf(format);
  PAGODA_CHECK(block.bytes > 0 && columns % block.columns == 0, "no random rows of this format and width");
  std::vector<std::byte> data(static_cast<size_t>(rows * columns / block.columns * block.bytes));
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  const auto next = [&] {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  };
  for (size_t at = 0; at + 8 <= data.size(); at += 8) {
    const uint64_t value = next();
    std::memcpy(&data[at], &value, 8);
  }
  for (size_t at = 0; at + static_cast<size_t>(block.bytes) <= data.size(); at += static_cast<size_t>(block.bytes)) {
    const uint64_t bits = next();
    if (format == WeightFormat::kF32) {
      const float value = static_cast<float>(static_cast<int64_t>(bits >> 40) - (1 << 23)) * 0x1p-29f;
      std::memcpy(&data[at], &value, 4);
    } else if (block.columns == 1) {
      // bf16: sign, exponent 118..121, mantissa; f16: exponent 6..9.
      const uint16_t half = format == WeightFormat::kBF16
                                ? static_cast<uint16_t>((bits & 0x807f) | ((118 + (bits >> 32 & 3)) << 7))
                                : static_cast<uint16_t>((bits & 0x83ff) | ((6 + (bits >> 32 & 3)) << 10));
      std::memcpy(&data[at], &half, 2);
    }
    for (const int scale : block.scales) {
      if (scale < 0) continue;
      const uint16_t half = static_cast<uint16_t>((next() & 0x83ff) | (3 << 10));  // about 2^-12
      std::memcpy(&data[at + static_cast<size_t>(scale)], &half, 2);
    }
  }
  return data;
}

absl::StatusOr<std::shared_ptr<const worker::Shard>> MakeRandomShard(const RandomModel& model, kernels::Backend& backend,
                                                                     int activation_bits) {
  auto shard = std::make_shared<worker::Shard>();
  checkpoint::ModelSpec& spec = shard->spec;
  spec.architecture = "llama";
  spec.layers = model.layers;
  spec.hidden = model.hidden;
  spec.heads = model.heads;
  spec.kv_heads = model.kv_heads;
  spec.head_dim = model.head_dim;
  spec.ffn = model.ffn;
  spec.vocabulary = model.vocabulary;
  spec.max_context = 1 << 17;
  spec.rope.dimensions = model.head_dim;
  spec.rope.base = 500000.0f;
  shard->request = {.model = nullptr, .layer_begin = 0, .layer_end = model.layers, .activation_bits = activation_bits};
  const bool super = model.format >= WeightFormat::kQ2_K;
  PAGODA_ASSIGN_OR_RETURN(shard->partition, worker::MakePartition(spec, 1, super ? 256 : 32));
  const auto pack = [&](std::span<const MatrixRows> parts, const kernels::PackOptions& options) { return backend.Pack(parts, options); };
  const int64_t qkv_rows = static_cast<int64_t>(model.heads + 2 * model.kv_heads) * model.head_dim;
  const int64_t attended = static_cast<int64_t>(model.heads) * model.head_dim;
  const auto rows_of = [&](const std::vector<std::byte>& data, int64_t rows, int64_t columns) {
    return MatrixRows{.format = model.format, .rows = rows, .columns = columns, .data = data.data()};
  };
  const auto qkv = RandomRows(model.format, qkv_rows, model.hidden, 1), o = RandomRows(model.format, model.hidden, attended, 2),
             gate_up = RandomRows(model.format, 2 * int64_t{model.ffn}, model.hidden, 3),
             down = RandomRows(model.format, model.hidden, model.ffn, 4);
  const worker::RankPartition& mine = shard->mine();
  const size_t hidden = static_cast<size_t>(model.hidden);
  PAGODA_ASSIGN_OR_RETURN(shard->norms, backend.NewBuffer((2 * static_cast<size_t>(model.layers) + 1) * hidden * sizeof(float)));
  const std::vector<float> ones((2 * static_cast<size_t>(model.layers) + 1) * hidden, 1.0f);
  PAGODA_RETURN_IF_ERROR(backend.Upload(ones.data(), shard->norms->data(), ones.size() * sizeof(float)));
  const float* norm = static_cast<const float*>(shard->norms->data());
  for (int i = 0; i < model.layers; ++i) {
    worker::LayerWeights layer;
    layer.attention_norm = norm + 2 * static_cast<size_t>(i) * hidden;
    layer.ffn_norm = layer.attention_norm + hidden;
    const MatrixRows q = rows_of(qkv, qkv_rows, model.hidden), gu = rows_of(gate_up, 2 * int64_t{model.ffn}, model.hidden);
    const MatrixRows out = rows_of(o, model.hidden, attended), d = rows_of(down, model.hidden, model.ffn);
    PAGODA_ASSIGN_OR_RETURN(layer.qkv, pack({&q, 1}, {.activation_bits = 12}));
    PAGODA_ASSIGN_OR_RETURN(layer.output, pack({&out, 1}, {.shard_columns = shard->partition.attention_columns, .planes = mine.planes,
                                                           .activation_bits = activation_bits}));
    PAGODA_ASSIGN_OR_RETURN(layer.gate_up, pack({&gu, 1}, {.activation_bits = activation_bits}));
    PAGODA_ASSIGN_OR_RETURN(layer.down, pack({&d, 1}, {.shard_columns = shard->partition.ffn_columns, .planes = mine.planes,
                                                       .activation_bits = activation_bits}));
    shard->layers.push_back(std::move(layer));
  }
  const auto table = RandomRows(model.format, model.vocabulary, model.hidden, 5);
  const MatrixRows rows = rows_of(table, model.vocabulary, model.hidden);
  shard->embedding = rows;
  PAGODA_ASSIGN_OR_RETURN(shard->embedding_held, backend.Hold(rows));
  PAGODA_CHECK(shard->embedding_held != nullptr, "this benchmark is for devices");
  shard->embedding.data = static_cast<const std::byte*>(shard->embedding_held->data());
  PAGODA_ASSIGN_OR_RETURN(shard->head, pack({&rows, 1}, {.activation_bits = 12}));
  shard->final_norm = norm + 2 * static_cast<size_t>(model.layers) * hidden;
  PAGODA_RETURN_IF_ERROR(backend.Synchronize());
  return shard;
}

int64_t WeightBytes(const worker::Shard& shard) {
  int64_t bytes = static_cast<int64_t>(shard.head->bytes());
  for (const worker::LayerWeights& layer : shard.layers) {
    bytes += static_cast<int64_t>(layer.qkv->bytes() + layer.output->bytes() + layer.gate_up->bytes() + layer.down->bytes());
  }
  return bytes;
}

}  // namespace pagoda::bench
