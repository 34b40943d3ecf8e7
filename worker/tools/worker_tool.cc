// One rank of one stage in this process, without a cluster: for looking at a model's numbers and for tests of accuracy.
//   worker_tool --model M.gguf generate --tokens "1 2 3" --count 32
//   worker_tool --model M.gguf score --tokens-file ids.txt --logits out.f32 --logprobs lp.f32 --top1 top1.i32
// `score` feeds the given tokens (in windows of --window that know nothing of each other, when given) and writes, per position,
// the raw logits [positions, vocabulary], the log-probability of the next given token [positions - 1 of each window], and the
// likeliest token (int32).
#include <CLI/CLI.hpp>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "checkpoint/checkpoint.h"
#include "common/clock.h"
#include "kernels/factory.h"
#include "worker/model/decoder.h"
#include "worker/sampler/sampler.h"

namespace pagoda::worker {
namespace {

struct ToolOptions {
  std::string model;
  std::string device = "cpu";
  std::string isa = "auto";
  std::string kv_type = "f16";
  int threads = 1;
  int activation_bits = 8;
  int chunk = 256;
  int window = 0;
  int count = 32;
  double temperature = 0;
  uint64_t seed = 0;
  std::string tokens;
  std::string tokens_file;
  std::string logits_file;
  std::string logprobs_file;
  std::string top1_file;
};

constexpr int kBlockTokens = 16;
constexpr int kHeadRows = 32;

absl::StatusOr<kernels::KvType> ParseKvType(const std::string& text) {
  if (text == "f32") return kernels::KvType::kF32;
  if (text == "f16") return kernels::KvType::kF16;
  if (text == "bf16") return kernels::KvType::kBF16;
  if (text == "i8") return kernels::KvType::kI8;
  if (text == "fp8") return kernels::KvType::kF8;
  return absl::InvalidArgumentError(absl::StrCat("--kv-cache-dtype ", text, ": f32, f16, bf16, i8 or fp8"));
}

absl::StatusOr<std::vector<TokenId>> ReadTokens(const ToolOptions& options) {
  std::stringstream text(options.tokens);
  if (!options.tokens_file.empty()) {
    std::ifstream file(options.tokens_file);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", options.tokens_file));
    text << file.rdbuf();
  }
  std::vector<TokenId> tokens;
  for (TokenId token; text >> token;) tokens.push_back(token);
  if (tokens.empty()) return absl::InvalidArgumentError("no tokens: give --tokens or --tokens-file");
  return tokens;
}

// One sequence in a cache of its own.
class Session {
 public:
  static absl::StatusOr<std::unique_ptr<Session>> Open(const ToolOptions& options, int64_t max_tokens) {
    auto session = std::unique_ptr<Session>(new Session);
    PAGODA_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options.isa));
    PAGODA_ASSIGN_OR_RETURN(const kernels::DeviceChoice device, kernels::ParseDevice(options.device));
    PAGODA_ASSIGN_OR_RETURN(session->backend_,
                            kernels::MakeBackend({.device = device, .cpu = {.threads = options.threads, .isa = isa}}));
    PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<checkpoint::Checkpoint> model, checkpoint::Checkpoint::Open(options.model));
    const int layers = model->spec().layers;
    const MonotonicNs begin = NowNs();
    PAGODA_ASSIGN_OR_RETURN(std::shared_ptr<const Shard> shard,
                            LoadShard({.model = std::move(model), .layer_end = layers,
                                       .activation_bits = options.activation_bits},
                                      *session->backend_, nullptr));
    PAGODA_ASSIGN_OR_RETURN(const kernels::KvType kv_type, ParseKvType(options.kv_type));
    const int blocks = static_cast<int>((max_tokens + kBlockTokens - 1) / kBlockTokens);
    PAGODA_ASSIGN_OR_RETURN(session->decoder_,
                            Decoder::Make(shard, *session->backend_,
                                          {.max_rows = options.chunk, .max_head_rows = kHeadRows, .kv_blocks = blocks,
                                           .block_tokens = kBlockTokens, .kv_type = kv_type}));
    for (int i = 0; i < blocks; ++i) session->blocks_.push_back(i);
    std::cerr << "loaded " << shard->bytes << " bytes in " << (NowNs() - begin) / kNsPerMs << " ms, "
              << session->backend_->implementation() << ", " << options.threads << " threads\n";
    return session;
  }

  void Restart() { position_ = 0; }
  int vocabulary() const { return decoder_->shard().spec.vocabulary; }

  // Appends tokens; then Logits may be asked for rows of them.
  absl::Status Feed(std::span<const TokenId> tokens) {
    const kernels::SequenceRows rows{.first_row = 0, .rows = static_cast<int>(tokens.size()),
                                     .first_position = position_, .blocks = blocks_};
    position_ += static_cast<int64_t>(tokens.size());
    return decoder_->Run({.step = {.sequences = {&rows, 1}, .rows = rows.rows}, .tokens = tokens}, group_);
  }
  absl::StatusOr<kernels::F32View> Logits(std::span<const int> rows) { return decoder_->Logits(rows, group_); }

 private:
  Session() : group_(nullptr, nullptr, absl::InfiniteDuration(), nullptr) {}
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Decoder> decoder_;
  GroupExchange group_;
  std::vector<int32_t> blocks_;
  int64_t position_ = 0;
};

absl::Status Generate(const ToolOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, ReadTokens(options));
  const int prompt = static_cast<int>(tokens.size());
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::Open(options, prompt + options.count + 1));
  Sampler sampler(session->vocabulary());
  SamplerParams params;
  params.temperature = options.temperature;
  params.seed = options.seed;
  int last_rows = 0;
  MonotonicNs begin = NowNs();
  for (int at = 0; at < prompt; at += last_rows) {
    last_rows = std::min(options.chunk, prompt - at);
    PAGODA_RETURN_IF_ERROR(session->Feed(std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(last_rows))));
  }
  std::cerr << "prefill: " << prompt << " tokens in " << (NowNs() - begin) / 1000 << " us\n";
  begin = NowNs();
  for (int i = 0; i < options.count; ++i) {
    const int row = last_rows - 1;
    PAGODA_ASSIGN_OR_RETURN(const kernels::F32View logits, session->Logits({&row, 1}));
    const Sampled sampled = sampler.Sample({logits.data, static_cast<size_t>(logits.columns)},
                                           {.params = &params, .tokens = tokens, .prompt_length = prompt,
                                            .counts = nullptr, .choice = 0, .output_index = i});
    tokens.push_back(sampled.token);
    std::cout << sampled.token << (i + 1 < options.count ? " " : "\n") << std::flush;
    PAGODA_RETURN_IF_ERROR(session->Feed({&tokens.back(), 1}));
    last_rows = 1;
  }
  std::cerr << "decode: " << options.count << " tokens in " << (NowNs() - begin) / 1000 << " us\n";
  return absl::OkStatus();
}

// A file of raw numbers, or nothing when no name was given.
class Output {
 public:
  explicit Output(const std::string& path) : file_(path.empty() ? nullptr : std::fopen(path.c_str(), "wb")), wanted_(!path.empty()) {}
  ~Output() {
    if (file_ != nullptr) std::fclose(file_);
  }
  bool ok() const { return !wanted_ || file_ != nullptr; }
  template <typename T>
  void Write(const T* data, size_t count) {
    if (file_ != nullptr && std::fwrite(data, sizeof(T), count, file_) != count) wanted_ = true;
  }

 private:
  std::FILE* file_;
  bool wanted_;
};

absl::Status Score(const ToolOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, ReadTokens(options));
  const size_t window = options.window > 0 ? static_cast<size_t>(options.window) : tokens.size();
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::Open(options, static_cast<int64_t>(window)));
  Output logits_out(options.logits_file), logprobs_out(options.logprobs_file), top1_out(options.top1_file);
  if (!logits_out.ok() || !logprobs_out.ok() || !top1_out.ok()) return absl::PermissionDeniedError("cannot write an output file");
  Sampler sampler(session->vocabulary());
  double sum = 0;
  int64_t scored = 0;
  for (size_t at = 0; at < tokens.size();) {
    if (at % window == 0) session->Restart();
    const size_t end = std::min({tokens.size(), at + static_cast<size_t>(options.chunk), (at / window + 1) * window});
    PAGODA_RETURN_IF_ERROR(session->Feed(std::span(tokens).subspan(at, end - at)));
    for (size_t row = 0; row < end - at; row += kHeadRows) {
      std::vector<int> rows;
      for (size_t r = row; r < std::min(end - at, row + kHeadRows); ++r) rows.push_back(static_cast<int>(r));
      PAGODA_ASSIGN_OR_RETURN(const kernels::F32View logits, session->Logits(rows));
      for (size_t r = 0; r < rows.size(); ++r) {
        const std::span<const float> line{logits.data + static_cast<int64_t>(r) * logits.stride, static_cast<size_t>(logits.columns)};
        const size_t position = at + row + r;
        logits_out.Write(line.data(), line.size());
        const bool has_next = position + 1 < tokens.size() && (position + 1) % window != 0;
        const Logprobs logprobs = sampler.LogprobsOf(line, has_next ? tokens[position + 1] : 0, 1);
        top1_out.Write(&logprobs[1].token, 1);
        if (!has_next) continue;
        logprobs_out.Write(&logprobs[0].logprob, 1);
        sum += static_cast<double>(logprobs[0].logprob);
        ++scored;
      }
    }
    at = end;
  }
  std::printf("%lld tokens scored, mean log-probability %.6f\n", static_cast<long long>(scored),
              scored > 0 ? sum / static_cast<double>(scored) : 0.0);
  return absl::OkStatus();
}

}  // namespace
}  // namespace pagoda::worker

int main(int argc, char** argv) {
  pagoda::worker::ToolOptions options;
  CLI::App app("One rank of one stage in this process");
  app.add_option("--model", options.model, "a .gguf file or a Hugging Face folder")->required();
  app.add_option("--device", options.device, "auto|cpu|cuda|cuda:N");
  app.add_option("--isa", options.isa, "auto|scalar|avx2|avx512|amx");
  app.add_option("--kv-cache-dtype", options.kv_type, "f32|f16|bf16|i8|fp8");
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024));
  app.add_option("--activation-bits", options.activation_bits, "8 or 12");
  app.add_option("--chunk", options.chunk, "rows of one step")->check(CLI::Range(1, 8192));
  app.require_subcommand(1);
  CLI::App* generate = app.add_subcommand("generate", "continue the tokens");
  generate->add_option("--tokens", options.tokens, "ids, separated by spaces");
  generate->add_option("--tokens-file", options.tokens_file);
  generate->add_option("--count", options.count)->check(CLI::Range(1, 1000000));
  generate->add_option("--temperature", options.temperature);
  generate->add_option("--seed", options.seed);
  CLI::App* score = app.add_subcommand("score", "feed the tokens and write what the model thinks of them");
  score->add_option("--tokens", options.tokens);
  score->add_option("--tokens-file", options.tokens_file);
  score->add_option("--window", options.window, "tokens of one context; 0: all");
  score->add_option("--logits", options.logits_file, "f32 [positions, vocabulary]");
  score->add_option("--logprobs", options.logprobs_file, "f32, of each next token");
  score->add_option("--top1", options.top1_file, "int32 [positions]");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = generate->parsed() ? pagoda::worker::Generate(options) : pagoda::worker::Score(options);
  if (status.ok()) return 0;
  std::cerr << "worker_tool: " << status.message() << "\n";
  return 1;
}
