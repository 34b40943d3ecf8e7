// A generation that goes on when its router dies: generate_resumable PROMPT HOST:PORT [HOST:PORT...]
#include <iostream>

#include "resumable_stream.h"

int main(int argc, char** argv) {
  const std::string prompt = argc > 1 ? argv[1] : "Once upon a time";
  std::vector<std::string> addresses(argv + std::min(argc, 2), argv + argc);
  if (addresses.empty()) addresses = {"127.0.0.1:8001", "127.0.0.1:8003"};

  pagoda::v1::GenerateRequest request;
  request.set_text(prompt);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(200);
  request.mutable_stopping()->set_ignore_eos(true);

  ResumableStream stream(addresses, request);
  const grpc::Status status = stream.Run([](const pagoda::v1::GenerateResponse& message) {
    std::cout << message.text() << std::flush;
    if (message.has_finish()) std::cout << "\n[" << message.finish().output_tokens() << " tokens";
  });
  if (status.ok()) {
    std::cout << ", " << stream.reconnects() << " reconnects]\n";
    return 0;
  }
  std::cerr << "generation failed (" << status.error_code() << "): " << status.error_message() << "\n";
  return 1;
}
