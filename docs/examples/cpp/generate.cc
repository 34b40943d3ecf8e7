// A streamed generation over gRPC from C++: generate [HOST:PORT] [PROMPT]
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>

#include "pagoda/v1/inference.grpc.pb.h"

int main(int argc, char** argv) {
  const std::string address = argc > 1 ? argv[1] : "127.0.0.1:8001";
  const std::string prompt = argc > 2 ? argv[2] : "Once upon a time";

  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(64 << 20);  // prompts may be longer than gRPC's default of 4 MiB
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  const auto channel =
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  const auto stub = pagoda::v1::Inference::NewStub(channel);

  pagoda::v1::GenerateRequest request;
  request.set_text(prompt);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(100);

  grpc::ClientContext context;  // context.TryCancel() ends the generation within one step
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
  const auto stream = stub->Generate(&context, request);
  pagoda::v1::GenerateResponse response;
  while (stream->Read(&response)) {
    std::cout << response.text() << std::flush;
    if (response.has_finish()) {
      std::cout << "\n[" << response.finish().output_tokens() << " tokens, "
                << pagoda::v1::FinishReason_Name(response.finish().reason()) << "]\n";
    }
  }
  const grpc::Status status = stream->Finish();
  if (status.ok()) return 0;
  std::cerr << "generation failed (" << status.error_code() << "): " << status.error_message()
            << "\n";
  return 1;
}
