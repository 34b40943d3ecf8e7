// The fake coordinator as a process, for tests that are not C++.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "tests/fakes/fake_coordinator.h"

int main(int argc, char** argv) {
  std::string model = pagoda::fakes::DefaultModelPath();
  std::string answer =
      "The quick brown fox jumps over the lazy dog. ¡Olé, 世界! 🦊 Then it sleeps.";
  std::string listen = "127.0.0.1:0", ready_file, name = "fake-model";
  int64_t step_ms = 1, max_model_len = 2048;
  int pipelines = 1, tokens_per_step = 1;
  bool endless = false;
  CLI::App app("a coordinator that computes nothing");
  app.add_option("--model", model, "file whose tokenizer is served");
  app.add_option("--model-name", name);
  app.add_option("--answer", answer, "what every request gets");
  app.add_option("--listen", listen);
  app.add_option("--ready-file", ready_file);
  app.add_option("--step-ms", step_ms);
  app.add_option("--max-model-len", max_model_len);
  app.add_option("--pipelines", pipelines);
  app.add_option("--tokens-per-step", tokens_per_step);
  app.add_flag("--endless", endless, "no end token: max_tokens ends an answer");
  CLI11_PARSE(app, argc, argv);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto options = pagoda::fakes::OptionsForModel(model, answer);
  if (!options.ok()) {
    std::cerr << options.status() << "\n";
    return 1;
  }
  options->listen = listen;
  options->model = name;
  options->step_ms = step_ms;
  options->max_model_len = max_model_len;
  options->pipelines = pipelines;
  options->tokens_per_step = tokens_per_step;
  if (endless) options->end_token = -1;
  auto coordinator = pagoda::fakes::FakeCoordinator::Start(*std::move(options));
  if (!coordinator.ok()) {
    std::cerr << coordinator.status() << "\n";
    return 1;
  }
  if (!ready_file.empty()) {
    std::ofstream(ready_file + ".tmp") << (*coordinator)->address() << "\n";
    std::rename((ready_file + ".tmp").c_str(), ready_file.c_str());
  }
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  return 0;
}
