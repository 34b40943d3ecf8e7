// Times the matrix products of one decoder (SmolLM2-135M's shapes by default) and the other operations, and compares them
// with measured roofs.
//   kernels_gemm_bench [--threads N] [--isa NAME] [--format Q4_1] [--bits 8|12] [--shards N] [--tokens 1,8,512] [--ops] [--cpu-time]
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "bench/kernels/roofs.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"

namespace pagoda::bench {
namespace {

using namespace pagoda::kernels;  // a program of its own

struct Settings {
  int threads = 2;
  Isa isa = Isa::kAuto;
  WeightFormat format = WeightFormat::kQ4_1;
  int bits = 8;
  int shards = 1;
  bool ops = false;
  std::vector<int64_t> tokens = {1, 2, 4, 8, 16, 32, 64, 128, 512};
};

constexpr const char* kFormatNames[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                        "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
constexpr int kBlockColumns[] = {1, 1, 1, 32, 32, 32, 32, 32, 256, 256, 256, 256, 256};
constexpr int kBlockBytes[] = {4, 2, 2, 18, 20, 22, 24, 34, 84, 110, 144, 176, 210};

// Busy machines: with --cpu-time the clock is the processor time of the calling thread (meaningful with one thread only).
bool use_cpu_time = false;

double Now() {
  if (use_cpu_time) {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::unique_ptr<PackedMatrix> RandomMatrix(Backend& backend, const Settings& settings, WeightFormat format, int64_t rows,
                                           int64_t columns) {
  const int f = static_cast<int>(format);
  columns = (columns + kBlockColumns[f] - 1) / kBlockColumns[f] * kBlockColumns[f];
  std::vector<std::byte> data(rows * columns / kBlockColumns[f] * kBlockBytes[f]);
  std::minstd_rand random(1);
  for (std::byte& b : data) b = static_cast<std::byte>(random() >> 8 & 0x3b);  // every f16 in it is small
  PackOptions options;
  options.activation_bits = settings.bits;
  const int64_t shards = std::min<int64_t>(settings.shards, columns / 32);
  for (int64_t i = 0; i <= shards; ++i) options.shard_columns.push_back(columns / 32 * i / shards * 32);
  const MatrixRows part{format, rows, columns, data.data()};
  return *backend.Pack({&part, 1}, options);
}

struct Layer {
  std::vector<std::unique_ptr<PackedMatrix>> matrices = {};  // qkv, o, gate and up, down
};

// The best of a few rounds, in seconds.
template <typename Body>
double Best(double budget_s, Body body) {
  double best = 1e9;
  const double until = Now() + budget_s;
  for (int round = 0; round < 3 || Now() < until; ++round) {
    const double begin = Now();
    body();
    best = std::min(best, Now() - begin);
  }
  return best;
}

void RunGemms(const Settings& settings) {
  auto backend = *MakeCpuBackend({.threads = settings.threads, .isa = settings.isa});
  const int64_t shapes[4][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
  std::vector<Layer> layers(30);
  double weights = 0, bytes = 0;
  for (Layer& layer : layers) {
    for (const auto& shape : shapes) {
      layer.matrices.push_back(RandomMatrix(*backend, settings, settings.format, shape[0], shape[1]));
      weights += static_cast<double>(shape[0]) * layer.matrices.back()->columns();
      bytes += layer.matrices.back()->bytes();
    }
  }
  Settings head_settings = settings;
  head_settings.shards = 1;
  auto head = RandomMatrix(*backend, head_settings, WeightFormat::kQ8_0, 49152, 576);
  const double vnni = MeasureVnni(settings.threads), read = MeasureRead(settings.threads, static_cast<size_t>(bytes + head->bytes()));
  std::printf("%s, %d threads, %s, %d bits, %d shards; roofs: VNNI %.0f GOP/s, cyclic read of %.1f MB %.1f GB/s\n",
              std::string(backend->implementation()).c_str(), settings.threads, kFormatNames[static_cast<int>(settings.format)],
              settings.bits, settings.shards, vnni / 1e9, (bytes + head->bytes()) / 1e6, read / 1e9);
  for (int64_t tokens : settings.tokens) {
    auto narrow = *backend->NewActivation(tokens, layers[0].matrices[0]->columns(), {true, settings.bits == 8, settings.bits == 12});
    auto wide = *backend->NewActivation(tokens, layers[0].matrices[3]->columns(), {true, settings.bits == 8, settings.bits == 12});
    auto head_in = *backend->NewActivation(tokens, 576, {true, settings.bits == 8, settings.bits == 12});
    for (Activation* activation : {narrow.get(), wide.get(), head_in.get()}) {
      auto values = *backend->NewBuffer(tokens * activation->columns() * 4);
      auto* x = static_cast<float*>(values->data());
      std::minstd_rand random(2);
      for (int64_t i = 0; i < tokens * activation->columns(); ++i) x[i] = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
      (void)backend->Quantize({x, tokens, activation->columns(), activation->columns()}, *activation);
    }
    auto out = *backend->NewBuffer(std::max<int64_t>(tokens * 3072, std::min<int64_t>(tokens, 64) * 49152) * 4);
    const auto product = [&](const PackedMatrix& matrix, const Activation& input, int64_t rows) {
      const absl::Status status = backend->MatMul({&matrix, &input, rows, static_cast<float*>(out->data()), matrix.rows(), 0});
      if (!status.ok()) std::abort();
    };
    const int64_t head_rows = tokens > 64 ? 1 : tokens;
    double layers_s = 1e9, head_s = 1e9;
    Best(tokens <= 4 ? 0.6 : 1.0, [&] {
      const double begin = Now();
      for (const Layer& layer : layers) {
        for (int i = 0; i < 4; ++i) product(*layer.matrices[i], i == 3 ? *wide : *narrow, tokens);
      }
      const double middle = Now();
      product(*head, *head_in, head_rows);
      layers_s = std::min(layers_s, middle - begin);
      head_s = std::min(head_s, Now() - middle);
    });
    const double ops = 2 * weights * tokens;
    std::printf("M=%-4ld layers %8.3f ms %6.0f GOP/s (%3.0f%% VNNI, %3.0f%% memory)   head of %-2ld %7.3f ms   %6.0f tok/s\n",
                static_cast<long>(tokens), layers_s * 1e3, ops / layers_s / 1e9, vnni > 0 ? ops / layers_s / vnni * 100 : 0,
                read > 0 ? bytes / layers_s / read * 100 : 0, static_cast<long>(head_rows), head_s * 1e3,
                tokens / (layers_s + head_s));
  }
}

// One layer's other operations at the model's shapes.
void RunOps(const Settings& settings) {
  auto backend = *MakeCpuBackend({.threads = settings.threads, .isa = settings.isa});
  struct Case {
    int sequences;
    int rows;
    int64_t context;
  };
  for (const Case& c : {Case{1, 1, 256}, Case{1, 1, 2048}, Case{32, 1, 512}, Case{1, 512, 0}}) {
    const int64_t rows = static_cast<int64_t>(c.sequences) * c.rows;
    const int per = static_cast<int>((c.context + c.rows + 15) / 16);
    auto cache = *backend->NewKvCache({.layers = 1, .blocks = c.sequences * per, .kv_heads = 3, .head_dim = 64});
    std::vector<std::vector<int32_t>> blocks(c.sequences, std::vector<int32_t>(per));
    std::vector<SequenceRows> sequences;
    for (int s = 0; s < c.sequences; ++s) {
      std::iota(blocks[s].begin(), blocks[s].end(), s * per);
      sequences.push_back({s * c.rows, c.rows, c.context, blocks[s]});
    }
    const StepRows step{sequences, static_cast<int>(rows)};
    const std::vector<int32_t> heads = {0, 0, 0, 1, 1, 1, 2, 2, 2};
    std::vector<float> frequencies(32, 0.1f);
    AttentionParams attention;
    attention.query_heads = 9, attention.kv_heads = 3, attention.kv_head_of = heads, attention.head_dim = 64;
    attention.softmax_scale = 0.125f;
    const RopeParams rope{frequencies, false, 1.0f};
    auto qkv = *backend->NewBuffer(rows * 960 * 4), out = *backend->NewBuffer(rows * 576 * 4);
    auto gate_up = *backend->NewBuffer(rows * 3072 * 4);
    auto hidden = *backend->NewActivation(rows, 576, {.f32 = false, .int8 = true});
    auto inner = *backend->NewActivation(rows, 1536, {.f32 = false, .int8 = true});
    auto* q = static_cast<float*>(qkv->data());
    auto* o = static_cast<float*>(out->data());
    for (int64_t i = 0; i < rows * 960; ++i) q[i] = static_cast<float>(i % 97) / 97.0f - 0.5f;
    const std::vector<float> weight(576, 1.0f);
    const double norm_s = Best(0.1, [&] {
      (void)backend->AddNorm({.residual = {o, rows, 576, 576}, .norm_weight = weight.data(), .epsilon = 1e-5f, .out = hidden.get()});
    });
    const double rope_s = Best(0.1, [&] { (void)backend->RopeAndStore({q, rows, 960, 960}, step, rope, attention, *cache); });
    const double attend_s = Best(0.3, [&] { (void)backend->Attend({q, rows, 960, 960}, step, attention, *cache, {o, rows, 576, 576}); });
    const double gate_s = Best(0.1, [&] { (void)backend->GatedActivation({static_cast<float*>(gate_up->data()), rows, 3072, 3072}, GateKind::kSilu, *inner); });
    const double flop = 4.0 * 9 * 64 * rows * (c.context + c.rows / 2.0 + 0.5);
    std::printf("%2d x %3d rows, context %4ld: norm %7.1f us, rope+store %7.1f us, attention %8.1f us (%5.1f GF/s), gate %7.1f us\n",
                c.sequences, c.rows, static_cast<long>(c.context), norm_s * 1e6, rope_s * 1e6, attend_s * 1e6, flop / attend_s / 1e9,
                gate_s * 1e6);
  }
}

int Main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--cpu-time") {
      use_cpu_time = true;
      continue;
    }
    if (name == "--ops") {
      settings.ops = true;
      continue;
    }
    ++i;
    if (name == "--threads") settings.threads = std::atoi(value);
    if (name == "--bits") settings.bits = std::atoi(value);
    if (name == "--shards") settings.shards = std::atoi(value);
    if (name == "--isa") {
      auto isa = ParseIsa(value);
      if (!isa.ok()) return std::fprintf(stderr, "%s\n", isa.status().ToString().c_str()), 2;
      settings.isa = *isa;
    }
    if (name == "--format") {
      for (int f = 0; f < 13; ++f) {
        if (std::strcmp(kFormatNames[f], value) == 0) settings.format = static_cast<WeightFormat>(f);
      }
    }
    if (name == "--tokens") {
      settings.tokens.clear();
      for (char* at = const_cast<char*>(value); *at != 0; at += *at == ',') settings.tokens.push_back(std::strtol(at, &at, 10));
    }
  }
  if (settings.ops) {
    RunOps(settings);
  } else {
    RunGemms(settings);
  }
  return 0;
}

}  // namespace
}  // namespace pagoda::bench

int main(int argc, char** argv) { return pagoda::bench::Main(argc, argv); }
