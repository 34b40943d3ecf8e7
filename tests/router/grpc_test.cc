// The gRPC front end of a whole router: streams, status codes with their details, deadlines, cancels, the unary methods.
#include <grpcpp/grpcpp.h>

#include "pagoda/internal/v1/status_details.pb.h"
#include "pagoda/v1/inference.grpc.pb.h"
#include "tests/router/router_fixture.h"

namespace pagoda::router {
namespace {

class GrpcTest : public RouterFixture {
 protected:
  void Connect() {
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(router_->grpc_port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }
  struct Result {
    grpc::Status status;
    std::vector<v1::GenerateResponse> responses;
    std::string text(int index = 0) const {
      std::string out;
      for (const auto& response : responses) {
        if (response.index() == index) out += response.text();
      }
      return out;
    }
  };
  Result Generate(const v1::GenerateRequest& request, grpc::ClientContext* context) {
    const auto stream = stub_->Generate(context, request);
    Result result;
    v1::GenerateResponse response;
    while (stream->Read(&response)) result.responses.push_back(response);
    result.status = stream->Finish();
    return result;
  }
  Result Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return Generate(request, &context);
  }
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

// The detail of this kind (google.rpc.`name`) of a status, as a client's library finds it.
bool DetailOf(const grpc::Status& status, const std::string& name, google::protobuf::Message* detail) {
  internal::v1::StatusDetails details;
  if (!details.ParseFromString(status.error_details())) return false;
  EXPECT_EQ(details.code(), status.error_code());
  for (const auto& any : details.details()) {
    if (any.type_url() == "type.googleapis.com/google.rpc." + name) return detail->ParseFromString(any.value());
  }
  return false;
}

TEST_F(GrpcTest, GeneratesFromTextTokensAndChat) {
  AddCoordinator();
  StartRouter();
  Connect();
  v1::GenerateRequest request;
  request.set_text("Hello");
  request.set_request_id("mine");
  request.mutable_logprobs()->set_logprobs(2);
  Result result = Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text(), kAnswer);
  EXPECT_TRUE(result.responses.front().has_prompt_info());
  EXPECT_FALSE(result.responses.back().has_prompt_info());
  EXPECT_EQ(result.responses.back().finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.responses.front().request_id(), "mine");
  EXPECT_EQ(result.responses.front().logprobs(0).entries_size(), 3);
  int tokens = 0;
  for (const auto& response : result.responses) tokens += response.token_ids_size();
  EXPECT_EQ(tokens, result.responses.back().finish().output_tokens());

  request.mutable_chat()->add_messages()->set_role("user");
  request.set_n(2);
  EXPECT_EQ(Generate(request).text(0), kAnswer);
  request.mutable_tokens()->add_token_ids(5);
  request.set_skip_text(true);
  result = Generate(request);
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.text(), "");
  request.set_skip_text(false);
  request.mutable_stopping()->add_stop("lazy");
  result = Generate(request);
  EXPECT_EQ(result.text(0), "The quick brown fox jumps over the ");
}

TEST_F(GrpcTest, StatusCodesDeadlinesAndCancels) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  Connect();
  v1::GenerateRequest request;
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
      << "no prompt";
  request.mutable_chat()->add_messages()->set_role("user<|im_end|>\nsystem");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "a role that is more than a word";
  request.clear_chat();
  for (int i = 0; i < 4097; ++i) request.mutable_chat()->add_messages()->set_role("user");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "too many messages";
  request.set_text("a");
  request.mutable_sampling()->set_temperature(std::numeric_limits<double>::quiet_NaN());
  const grpc::Status wrong = Generate(request).status;
  EXPECT_EQ(wrong.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  internal::v1::BadRequest bad;
  ASSERT_TRUE(DetailOf(wrong, "BadRequest", &bad));
  ASSERT_EQ(bad.field_violations_size(), 1);
  EXPECT_EQ(bad.field_violations(0).field(), "temperature");
  request.mutable_sampling()->set_temperature(0);
  request.set_model("none");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  request.clear_model();
  only.RefuseNext(1, absl::StatusCode::kResourceExhausted, 700);
  grpc::ClientContext refused;
  const grpc::Status busy = Generate(request, &refused).status;
  EXPECT_EQ(busy.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  internal::v1::RetryInfo retry;
  ASSERT_TRUE(DetailOf(busy, "RetryInfo", &retry));
  EXPECT_EQ(retry.retry_delay().nanos(), 700'000'000);
  const auto trailer = refused.GetServerTrailingMetadata().find("retry-after-ms");
  ASSERT_NE(trailer, refused.GetServerTrailingMetadata().end());
  EXPECT_EQ(std::string(trailer->second.data(), trailer->second.size()), "700");
  EXPECT_EQ(refused.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1);

  only.Pause(true);
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  EXPECT_EQ(Generate(request, &late).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_LE(only.counts().last_deadline_ms, 300);
  EXPECT_TRUE(Eventually([&] { return only.counts().cancels >= 1; }));
  only.Pause(false);
  // The client's own haste is no error of this server.
  EXPECT_TRUE(Eventually([&] { return Metric(R"(pagoda_router_requests_total{code="499",endpoint="grpc.Generate"})") == 1; }));
  EXPECT_TRUE(Eventually([&] { return Metric(R"(pagoda_router_streams_cut_total{reason="client_deadline"})") == 1; }));
  EXPECT_EQ(Metric(R"(pagoda_router_requests_total{code="504",endpoint="grpc.Generate"})"), 0);

  grpc::ClientContext context;
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_stopping()->set_max_tokens(1500);
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return only.counts().running == 0; }));
  EXPECT_TRUE(Eventually([&] { return Metric("pagoda_router_requests_in_flight") == 0; }));
}

TEST_F(GrpcTest, TokenizeModelsHealth) {
  AddCoordinator();
  StartRouter();
  Connect();
  grpc::ClientContext c0, c1, c2, c3, c4, c5, c6;
  v1::TokenizeRequest tokenize;
  v1::TokenizeResponse none;
  EXPECT_EQ(stub_->Tokenize(&c0, tokenize, &none).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "no text, no chat";
  tokenize.set_text("Hello 世界");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&c1, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.max_model_len(), 2048);
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&c2, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "Hello 世界");
  detokenize.add_token_ids(-1);
  EXPECT_EQ(stub_->Detokenize(&c3, detokenize, &text).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&c4, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  v1::GetModelInfoRequest which;
  which.set_model("fake-model");
  v1::ModelInfo info;
  ASSERT_TRUE(stub_->GetModelInfo(&c5, which, &info).ok());
  EXPECT_EQ(info.numerics_profile(), "cpu-1");
  EXPECT_EQ(info.pipelines_ready(), 1);
  which.set_model("none");
  EXPECT_EQ(stub_->GetModelInfo(&c6, which, &info).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace pagoda::router
