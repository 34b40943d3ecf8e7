// Times the CUDA backend: the copy roof, matrix products, attention, and whole models of random weights. One JSON object a line on
// standard output, progress on standard error. Medians of rounds; every round ends with a wait for the device, and what is timed is
// many calls long, so the wait's cost is lost in it.
//   gpu_bench [--device cuda:0] [--only roofs|gemm|attention|models] [--models NAME,...] [--rounds 7]
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <numeric>

#include "bench/gpu/random_shard.h"
#include "common/clock.h"
#include "kernels/factory.h"
#include "worker/model/decoder.h"

namespace pagoda::bench {
namespace {

using kernels::Backend;
using kernels::WeightFormat;

struct Options {
  std::string device = "cuda";
  std::string only;
  bool fast = false;
  std::string models = "SmolLM2-135M,Llama-1B,Llama-8B";
  int rounds = 7;
};

std::string_view NameOf(WeightFormat format) {
  static constexpr std::string_view kNames[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                                "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
  return kNames[static_cast<size_t>(format)];
}

// Seconds of one call, the median of rounds of `calls` calls.
template <typename Body>
absl::StatusOr<double> Time(Backend& backend, int rounds, int calls, Body body) {
  for (int i = 0; i < 3; ++i) PAGODA_RETURN_IF_ERROR(body(i));
  PAGODA_RETURN_IF_ERROR(backend.Synchronize());
  std::vector<double> seconds;
  for (int r = 0; r < rounds; ++r) {
    const MonotonicNs begin = NowNs();
    for (int i = 0; i < calls; ++i) PAGODA_RETURN_IF_ERROR(body(i));
    PAGODA_RETURN_IF_ERROR(backend.Synchronize());
    seconds.push_back(static_cast<double>(NowNs() - begin) / kNsPerSecond / calls);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

absl::StatusOr<double> Roofs(Backend& backend, int rounds) {
  constexpr int64_t kRows = 16384, kColumns = 16384;  // 1 GiB each way
  PAGODA_ASSIGN_OR_RETURN(const auto from, backend.NewBuffer(kRows * kColumns * 4));
  PAGODA_ASSIGN_OR_RETURN(const auto to, backend.NewBuffer(kRows * kColumns * 4));
  const Backend::CopyRowsParams copy{.from = static_cast<const float*>(from->data()), .from_stride = kColumns,
                                     .to = static_cast<float*>(to->data()), .to_stride = kColumns, .rows = kRows, .columns = kColumns};
  PAGODA_ASSIGN_OR_RETURN(const double seconds, Time(backend, rounds, 5, [&](int) { return backend.CopyRows(copy); }));
  const double rate = 2.0 * kRows * kColumns * 4 / seconds;
  std::printf("{\"what\": \"roof copy\", \"bytes_per_s\": %.4g}\n", rate);
  std::fflush(stdout);
  return rate;
}

struct GemmCase {
  WeightFormat format;
  int64_t rows, columns, tokens;
};

absl::Status Gemm(Backend& backend, const Options& options, const GemmCase& c) {
  const std::vector<std::byte> data = RandomRows(c.format, c.rows, c.columns, 9);
  const kernels::MatrixRows view{.format = c.format, .rows = c.rows, .columns = c.columns, .data = data.data()};
  std::vector<std::unique_ptr<kernels::PackedMatrix>> copies;
  size_t bytes = 0;
  // Several copies, so that the weights do not come from the cache when they are what is measured.
  while (copies.empty() || (c.tokens <= 64 && bytes < (size_t{400} << 20) && copies.size() < 64)) {
    PAGODA_ASSIGN_OR_RETURN(auto matrix, backend.Pack({&view, 1}, {.activation_bits = 8}));
    bytes += matrix->bytes();
    copies.push_back(std::move(matrix));
  }
  kernels::ActivationForms forms;
  copies[0]->AddForms(forms);
  PAGODA_ASSIGN_OR_RETURN(const auto input, backend.NewActivation(c.tokens, c.columns, forms));
  std::vector<float> x(static_cast<size_t>(c.tokens * c.columns));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 2654435761u >> 20) % 2001 - 1000) / 1000.0f;
  PAGODA_ASSIGN_OR_RETURN(const auto in, backend.NewBuffer(x.size() * 4));
  PAGODA_RETURN_IF_ERROR(backend.Upload(x.data(), in->data(), x.size() * 4));
  PAGODA_RETURN_IF_ERROR(backend.Quantize({static_cast<float*>(in->data()), c.tokens, c.columns, c.columns}, *input));
  PAGODA_ASSIGN_OR_RETURN(const auto out, backend.NewBuffer(static_cast<size_t>(c.tokens * c.rows) * 4));
  const int calls = c.tokens <= 64 ? 200 : 10;
  PAGODA_ASSIGN_OR_RETURN(const double seconds, Time(backend, options.rounds, calls, [&](int i) {
    return backend.MatMul({.matrix = copies[static_cast<size_t>(i) % copies.size()].get(), .input = input.get(), .rows = c.tokens,
                           .out = static_cast<float*>(out->data()), .row_stride = c.rows});
  }));
  const double weight_rate = static_cast<double>(copies[0]->bytes()) / seconds;
  const double flops = 2.0 * static_cast<double>(c.rows * c.columns * c.tokens) / seconds;
  std::printf("{\"what\": \"gemm\", \"format\": \"%s\", \"rows\": %lld, \"columns\": %lld, \"tokens\": %lld, \"us\": %.3f, "
              "\"weight_bytes_per_s\": %.4g, \"flop_per_s\": %.4g}\n",
              std::string(NameOf(c.format)).c_str(), static_cast<long long>(c.rows), static_cast<long long>(c.columns),
              static_cast<long long>(c.tokens), seconds * 1e6, weight_rate, flops);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Gemms(Backend& backend, const Options& options) {
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kQ8_0, WeightFormat::kQ4_0, WeightFormat::kQ4_1,
                                    WeightFormat::kQ4_K, WeightFormat::kQ6_K}) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{6144, 4096}, {28672, 4096}, {4096, 14336}}) {
      for (const int64_t tokens : {1, 8, 32, 64, 2048}) {
        PAGODA_RETURN_IF_ERROR(Gemm(backend, options, {format, rows, columns, tokens}));
      }
    }
  }
  return absl::OkStatus();
}

struct AttentionCase {
  int sequences = 1;
  int context = 0;
  int rows = 1;  // of each sequence
  kernels::KvType type = kernels::KvType::kF16;
};

absl::Status Attention(Backend& backend, const Options& options, const AttentionCase& c) {
  constexpr int kHeads = 32, kKvHeads = 8, kDim = 128, kLayers = 4;
  const int per_sequence = (c.context + 15) / 16, blocks = per_sequence * c.sequences;
  PAGODA_ASSIGN_OR_RETURN(const auto cache, backend.NewKvCache({.layers = kLayers, .blocks = blocks, .kv_heads = kKvHeads, .head_dim = kDim, .type = c.type}));
  std::vector<int32_t> head_of, ids(static_cast<size_t>(blocks));
  for (int h = 0; h < kHeads; ++h) head_of.push_back(h / (kHeads / kKvHeads));
  for (int i = 0; i < blocks; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>((static_cast<int64_t>(i) * 7919) % blocks);
  const std::vector<float> frequencies(kDim / 2, 0.01f);
  kernels::AttentionParams attention{.query_heads = kHeads, .kv_heads = kKvHeads, .kv_head_of = head_of, .head_dim = kDim, .softmax_scale = 0.088f};
  const kernels::RopeParams rope{.frequencies = frequencies};
  std::vector<kernels::SequenceRows> sequences;
  for (int s = 0; s < c.sequences; ++s) {
    sequences.push_back({.first_row = s * c.rows, .rows = c.rows, .first_position = c.context - c.rows,
                         .blocks = std::span(ids).subspan(static_cast<size_t>(s * per_sequence), static_cast<size_t>(per_sequence))});
  }
  const int rows = c.sequences * c.rows;
  const int64_t columns = (kHeads + 2 * kKvHeads) * kDim;
  std::vector<float> x(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 2654435761u >> 20) % 2001 - 1000) / 1000.0f;
  PAGODA_ASSIGN_OR_RETURN(const auto qkv, backend.NewBuffer(x.size() * 4));
  PAGODA_RETURN_IF_ERROR(backend.Upload(x.data(), qkv->data(), x.size() * 4));
  PAGODA_ASSIGN_OR_RETURN(const auto out, backend.NewBuffer(static_cast<size_t>(rows) * kHeads * kDim * 4));
  const kernels::StepRows step{sequences, rows};
  const kernels::F32View q{static_cast<float*>(qkv->data()), rows, columns, columns};
  const kernels::F32View o{static_cast<float*>(out->data()), rows, kHeads * kDim, kHeads * kDim};
  PAGODA_RETURN_IF_ERROR(backend.BeginStep({.step = step, .attention = &attention, .rope = &rope, .cache = cache.get()}));
  PAGODA_ASSIGN_OR_RETURN(const double seconds, Time(backend, options.rounds, c.rows == 1 ? 100 : 10, [&](int i) {
    attention.layer = i % kLayers;
    return backend.Attend(q, step, attention, *cache, o);
  }));
  const double element = c.type == kernels::KvType::kI8 ? 1 : 2;
  const double bytes = 2.0 * c.sequences * c.context * kKvHeads * kDim * element;
  const double visible = c.rows == 1 ? c.context : c.context - c.rows / 2.0;
  std::printf("{\"what\": \"attention\", \"kv\": \"%s\", \"sequences\": %d, \"context\": %d, \"rows\": %d, \"us\": %.3f, "
              "\"bytes_per_s\": %.4g, \"flop_per_s\": %.4g}\n",
              c.type == kernels::KvType::kI8 ? "i8" : "f16", c.sequences, c.context, c.rows, seconds * 1e6, bytes / seconds,
              4.0 * rows * visible * kHeads * kDim / seconds);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Attentions(Backend& backend, const Options& options) {
  for (const kernels::KvType type : {kernels::KvType::kF16, kernels::KvType::kI8}) {
    for (const AttentionCase& c : std::vector<AttentionCase>{{1, 256}, {1, 1024}, {1, 4096}, {1, 32768}, {8, 1024}, {64, 256},
                                                             {64, 1024}, {64, 4096}, {1, 2048, 2048}, {4, 2048, 512}}) {
      AttentionCase with = c;
      with.type = type;
      PAGODA_RETURN_IF_ERROR(Attention(backend, options, with));
    }
  }
  return absl::OkStatus();
}

std::vector<RandomModel> Models() {
  const auto of = [](std::string name, WeightFormat format, int layers, int hidden, int heads, int kv, int dim, int ffn, int vocabulary) {
    return RandomModel{.name = std::move(name), .layers = layers, .hidden = hidden, .heads = heads, .kv_heads = kv, .head_dim = dim,
                       .ffn = ffn, .vocabulary = vocabulary, .format = format};
  };
  std::vector<RandomModel> models;
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kQ8_0, WeightFormat::kQ4_0}) {
    models.push_back(of("SmolLM2-135M", format, 30, 576, 9, 3, 64, 1536, 49152));
    models.push_back(of("Llama-1B", format, 16, 2048, 32, 8, 64, 8192, 128256));
    models.push_back(of("Llama-8B", format, 32, 4096, 32, 8, 128, 14336, 128256));
    models.push_back(of("Llama-70B-slice", format, 8, 8192, 64, 8, 128, 28672, 128256));
  }
  return models;
}

constexpr size_t kHeadRows = 32;  // that one call of the head takes

struct ModelStep {
  int sequences = 1;
  int rows = 1;
  int context = 256;  // rows included
};

// One kind of step of a model: the whole of it, from the rows to the likeliest tokens on the host.
absl::Status TimeStep(Backend& backend, worker::Decoder& decoder, const Options& options, const RandomModel& model, const ModelStep& s) {
  worker::GroupExchange group(nullptr, nullptr, absl::InfiniteDuration(), nullptr);
  const int per_sequence = (s.context + 15) / 16;
  std::vector<int32_t> ids(static_cast<size_t>(per_sequence * s.sequences));
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<kernels::SequenceRows> sequences;
  std::vector<TokenId> tokens;
  std::vector<int> last;
  for (int i = 0; i < s.sequences; ++i) {
    sequences.push_back({.first_row = i * s.rows, .rows = s.rows, .first_position = s.context - s.rows,
                         .blocks = std::span(ids).subspan(static_cast<size_t>(i * per_sequence), static_cast<size_t>(per_sequence))});
    for (int r = 0; r < s.rows; ++r) tokens.push_back(static_cast<TokenId>((i * 131 + r * 7) % model.vocabulary));
    last.push_back((i + 1) * s.rows - 1);
  }
  const bool decode = s.rows == 1;
  PAGODA_ASSIGN_OR_RETURN(const double seconds, Time(backend, options.rounds, decode ? 20 : 2, [&](int) -> absl::Status {
    PAGODA_RETURN_IF_ERROR(decoder.Run({.step = {sequences, s.sequences * s.rows}, .tokens = tokens}, group));
    for (size_t at = 0; at < last.size(); at += kHeadRows) {
      const auto rows = std::span(last).subspan(at, std::min(kHeadRows, last.size() - at));
      PAGODA_RETURN_IF_ERROR(decoder.LargestLogits(rows).status());
    }
    return absl::OkStatus();
  }));
  const double bytes = static_cast<double>(WeightBytes(decoder.shard()));
  double flops = 0;
  for (const auto& layer : decoder.shard().layers) {
    flops += 2.0 * static_cast<double>(layer.qkv->rows() * layer.qkv->columns() + layer.output->rows() * layer.output->columns() +
                                       layer.gate_up->rows() * layer.gate_up->columns() + layer.down->rows() * layer.down->columns());
  }
  const int rows = s.sequences * s.rows;
  std::printf("{\"what\": \"model\", \"model\": \"%s\", \"format\": \"%s\", \"profile\": \"%s\", \"sequences\": %d, \"rows\": %d, "
              "\"context\": %d, \"ms\": %.4f, \"tokens_per_s\": %.2f, \"weight_bytes_per_s\": %.4g, \"flop_per_s\": %.4g}\n",
              model.name.c_str(), std::string(NameOf(model.format)).c_str(), std::string(backend.numerics_profile()).c_str(),
              s.sequences, s.rows, s.context, seconds * 1e3, rows / seconds, bytes / seconds, flops * rows / seconds);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status TimeModel(Backend& backend, const Options& options, const RandomModel& model) {
  std::cerr << "model " << model.name << " " << NameOf(model.format) << "\n";
  PAGODA_ASSIGN_OR_RETURN(const auto shard, MakeRandomShard(model, backend, 8));
  PAGODA_ASSIGN_OR_RETURN(const auto decoder, worker::Decoder::Make(shard, backend, {.max_rows = 2048, .kv_blocks = 64 * 64 + 256}));
  for (const ModelStep& step : std::vector<ModelStep>{{1, 1, 256}, {8, 1, 512}, {32, 1, 512}, {64, 1, 1000}, {1, 2048, 2048}}) {
    PAGODA_RETURN_IF_ERROR(TimeStep(backend, *decoder, options, model, step));
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  PAGODA_ASSIGN_OR_RETURN(const kernels::DeviceChoice device, kernels::ParseDevice(options.device));
  PAGODA_ASSIGN_OR_RETURN(const auto backend, kernels::MakeBackend({.device = device, .fast = options.fast}));
  if (backend->host_memory()) return absl::UnavailableError("gpu_bench times a GPU: give --device cuda");
  std::printf("{\"what\": \"device\", \"implementation\": \"%s\", \"profile\": \"%s\"}\n", std::string(backend->implementation()).c_str(),
              std::string(backend->numerics_profile()).c_str());
  const auto wanted = [&](std::string_view part) { return options.only.empty() || options.only == part; };
  if (wanted("roofs")) PAGODA_RETURN_IF_ERROR(Roofs(*backend, options.rounds).status());
  if (wanted("gemm")) PAGODA_RETURN_IF_ERROR(Gemms(*backend, options));
  if (wanted("attention")) PAGODA_RETURN_IF_ERROR(Attentions(*backend, options));
  for (const RandomModel& model : Models()) {
    if (wanted("models") && ("," + options.models + ",").find("," + model.name + ",") != std::string::npos) {
      PAGODA_RETURN_IF_ERROR(TimeModel(*backend, options, model));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace pagoda::bench

int main(int argc, char** argv) {
  pagoda::bench::Options options;
  CLI::App app("Times the CUDA backend");
  app.add_option("--device", options.device)->capture_default_str();
  app.add_option("--only", options.only, "roofs|gemm|attention|models");
  app.add_option("--models", options.models, "names, separated by commas")->capture_default_str();
  app.add_flag("--fast", options.fast, "the fast numerics profile");
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = pagoda::bench::Run(options);
  if (status.ok()) return 0;
  std::cerr << "gpu_bench: " << std::string(status.message()) << "\n";
  return 1;
}
