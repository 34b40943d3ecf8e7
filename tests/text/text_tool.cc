// Drives text/ from a test in another language: one JSON object a line on stdin, one on stdout.
//   text_tool open FILE...      bundle from files (a .gguf, or the files of a Hugging Face folder), then lines of
//     {"op":"encode","text":..,"special":bool,"parse":bool} -> {"ids":[..]}
//     {"op":"decode","ids":[..],"skip":bool}                -> {"text":..}
//     {"op":"stream","ids":[..],"skip":bool,"stop":[..],..} -> {"pieces":[..],"stop":..|null}
//     {"op":"info"}                                         -> vocabulary size, bos, ends
//   text_tool render            lines of {"template":..,"context":{..},"now":..} -> {"text":..} or {"error":..}
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "text/detokenizer.h"
#include "text/text_bundle.h"

namespace pagoda::text {
namespace {

using nlohmann::ordered_json;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

absl::StatusOr<std::unique_ptr<TextModel>> OpenFiles(const std::vector<std::string>& paths) {
  std::vector<checkpoint::Checkpoint::BundleEntry> bundle;
  for (const std::string& path : paths) {
    const std::string name = path.substr(path.rfind('/') + 1);
    std::string bytes = ReadFile(path);
    const bool gguf = name.ends_with(".gguf");
    // A header fits well within this; the tensors need not travel.
    if (gguf && bytes.size() > (32u << 20)) bytes.resize(32u << 20);
    bundle.push_back({gguf ? "model.gguf.header" : name, std::move(bytes)});
  }
  return OpenTextBundle(bundle);
}

ordered_json Stream(const Tokenizer& tokenizer, const ordered_json& request) {
  DetokenizerOptions options;
  options.skip_special_tokens = request.value("skip", true);
  options.stop = request.value("stop", std::vector<std::string>());
  options.include_stop_in_output = request.value("include_stop", false);
  options.min_tokens = request.value("min_tokens", 0);
  Detokenizer detokenizer(tokenizer, options);
  ordered_json pieces = ordered_json::array();
  for (const TokenId id : request.at("ids").get<std::vector<TokenId>>()) {
    const auto output = detokenizer.Add(id);
    pieces.push_back(output.text);
    if (output.stop_string.has_value()) return {{"pieces", pieces}, {"stop", *output.stop_string}};
  }
  pieces.push_back(detokenizer.Finish());
  return {{"pieces", pieces}, {"stop", nullptr}};
}

ordered_json Answer(const TextModel& model, const ordered_json& request) {
  const Tokenizer& tokenizer = *model.tokenizer;
  const std::string op = request.at("op");
  if (op == "encode") {
    Tokenizer::EncodeOptions options;
    options.add_special_tokens = request.value("special", true);
    options.parse_special_tokens = request.value("parse", true);
    return {{"ids", tokenizer.Encode(request.at("text").get<std::string>(), options)}};
  }
  if (op == "decode") {
    const auto ids = request.at("ids").get<std::vector<TokenId>>();
    return {{"text", tokenizer.Decode(ids, request.value("skip", false))}};
  }
  if (op == "stream") return Stream(tokenizer, request);
  if (op == "info") {
    ordered_json out = {{"vocabulary", tokenizer.vocabulary_size()},
                        {"bos", tokenizer.bos()},
                        {"ends", tokenizer.end_of_generation()},
                        {"bos_text", model.bos_text},
                        {"eos_text", model.eos_text},
                        {"has_template", model.chat_template != nullptr}};
    if (model.defaults.temperature) out["temperature"] = *model.defaults.temperature;
    if (model.defaults.top_p) out["top_p"] = *model.defaults.top_p;
    if (model.defaults.top_k) out["top_k"] = *model.defaults.top_k;
    if (model.defaults.repetition_penalty) out["repetition_penalty"] = *model.defaults.repetition_penalty;
    return out;
  }
  return {{"error", "no such op"}};
}

ordered_json Render(const ordered_json& request) {
  static std::map<std::string, std::unique_ptr<ChatTemplate>> parsed;
  const std::string source = request.at("template");
  auto& program = parsed[source];
  if (program == nullptr) {
    auto made = ChatTemplate::Parse(source);
    if (!made.ok()) return {{"error", std::string(made.status().message())}};
    program = std::move(made).value();
  }
  const auto text = program->Render(request.at("context"), request.value("now", int64_t{0}));
  if (!text.ok()) return {{"error", std::string(text.status().message())}};
  return {{"text", *text}};
}

int Main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) return 2;
  std::unique_ptr<TextModel> model;
  if (arguments[0] == "open") {
    auto opened = OpenFiles({arguments.begin() + 1, arguments.end()});
    if (!opened.ok()) {
      std::fprintf(stderr, "text_tool: %s\n", std::string(opened.status().message()).c_str());
      return 1;
    }
    model = std::move(opened).value();
  }
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const ordered_json request = ordered_json::parse(line);
    std::cout << (model != nullptr ? Answer(*model, request) : Render(request)).dump() << "\n";
    if (request.value("flush", false)) std::cout.flush();
  }
  return 0;
}

}  // namespace
}  // namespace pagoda::text

int main(int argc, char** argv) { return pagoda::text::Main(argc, argv); }
