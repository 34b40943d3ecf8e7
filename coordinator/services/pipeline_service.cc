#include "coordinator/services/pipeline_service.h"

#include <atomic>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "coordinator/services/bidi_stream.h"
#include "coordinator/services/chunk_writer.h"
#include "coordinator/services/convert.h"
#include "coordinator/services/describe.h"

namespace pagoda::coordinator {
namespace {

// 2: resumable streams, counts of deaths. A router of 1 gets none of these; what it sends means the same.
constexpr uint32_t kProtocol = 2;
constexpr uint32_t kOldestProtocol = kProtocol - 1;

class RouterStream final : public BidiStream<wire::RouterMessage, wire::CoordinatorMessage>, public RouterLink {
 public:
  RouterStream(grpc::CallbackServerContext* context, Coordinator& coordinator)
      : BidiStream(context), coordinator_(coordinator) {}

  void SendHello(bool leads, const std::string& leader_address) override {
    wire::CoordinatorMessage message;
    message.mutable_hello()->set_coordinator(coordinator_.options().name);
    message.mutable_hello()->set_protocol(std::min(kProtocol, coordinator_.options().announced_protocol));
    message.mutable_hello()->set_version(PAGODA_VERSION);
    message.mutable_hello()->set_leader(leads);
    message.mutable_hello()->set_leader_address(leader_address);
    message.mutable_hello()->set_address(coordinator_.address());
    Send(std::move(message));
  }
  void SendTokens(const StepTokens& head, std::span<ChoiceOutput* const> outputs) override {
    wire::CoordinatorMessage message;
    ToWire(head, outputs, *message.mutable_tokens());
    Send(std::move(message));
  }
  void SendRefused(const Refusal& refusal) override {
    wire::CoordinatorMessage message;
    ToWire(refusal, *message.mutable_refused());
    Send(std::move(message));
  }
  void SendDeaths(std::span<const DeathNotice> notices) override {
    if (protocol_ < 2) return;
    wire::CoordinatorMessage message;
    ToWire(notices, *message.mutable_deaths());
    Send(std::move(message));
  }
  void SendSnapshot(const Snapshot& snapshot) override {
    wire::CoordinatorMessage message;
    ToWire(snapshot, *message.mutable_snapshot());
    Send(std::move(message));
  }
  bool watching() const override { return watching_.load(std::memory_order_relaxed); }
  void SendCluster(const ClusterView& view) override {
    wire::CoordinatorMessage message;
    Describe(view, coordinator_.options(), *message.mutable_cluster());
    Send(std::move(message));
  }
  void Close(const std::string& why) override { Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, why)); }

 private:
  void OnMessage(wire::RouterMessage& message) override {
    if (message.kind_case() == wire::RouterMessage::kHello) return OnHello(message.hello());
    if (!greeted_) {
      Finish(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the first message must be RouterHello"));
      return;
    }
    switch (message.kind_case()) {
      case wire::RouterMessage::kSubmit:
        OnSubmit(*message.mutable_submit());
        break;
      case wire::RouterMessage::kCancel:
        coordinator_.Cancel(FromWire(message.cancel().request()), message.cancel().attempt());
        break;
      case wire::RouterMessage::kStop:
        coordinator_.StopChoice(FromWire(message.stop().request()), message.stop().choice(), message.stop().count());
        break;
      case wire::RouterMessage::kWatch:
        watching_.store(message.watch().cluster(), std::memory_order_relaxed);
        coordinator_.SnapshotDue();
        break;
      case wire::RouterMessage::kResumeQuery: {
        const wire::ResumeQuery& query = message.resume_query();
        wire::CoordinatorMessage answer;
        ToWire(coordinator_.TakeOver(query.tenant(), query.resume_id()), *answer.mutable_resume_answer());
        answer.mutable_resume_answer()->set_query(query.query());
        Send(std::move(answer));
        break;
      }
      default:
        break;  // of a newer version
    }
  }

  void OnHello(const wire::RouterHello& hello) {
    if (greeted_) return;
    if (hello.protocol() < kOldestProtocol) {
      Finish(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                          absl::StrCat("router ", hello.router(), " (", hello.version(), ") speaks protocol ", hello.protocol(),
                                       "; this coordinator speaks ", kOldestProtocol, " to ", kProtocol,
                                       ": upgrade the router first to the release in between")));
      return;
    }
    greeted_ = true;
    protocol_ = std::min(hello.protocol(), kProtocol);
    LogInfo("router_joined", {{"router", hello.router()}, {"version", hello.version()}});
    id_ = coordinator_.RouterJoined(std::static_pointer_cast<RouterStream>(shared_from_this()));
  }

  void OnSubmit(wire::Submit& submit) {
    const PipelineId pipeline(submit.pipeline());
    ResumeTable::Label label{.tenant = submit.tenant(),
                             .resume_id = std::move(*submit.mutable_resume_id()),
                             .part = submit.resume_part(),
                             .router_state = std::move(*submit.mutable_router_state())};
    if (label.resume_id.size() > limits::kMaxRequestIdBytes) label.resume_id.clear();
    absl::StatusOr<Request> request = FromWire(submit, id_, NowNs());
    if (request.ok()) return coordinator_.Submit(pipeline, *std::move(request), std::move(label), *this);
    SendRefused({.router = id_,
                 .request = FromWire(submit.request()),
                 .attempt = submit.attempt(),
                 .code = RefusalCode::kInvalidArgument,
                 .message = std::string(AsStd(request.status().message())),
                 .retry_after_ms = 0});
  }

  void OnGone() override {
    if (greeted_) coordinator_.RouterGone(id_);
  }

  Coordinator& coordinator_;
  bool greeted_ = false;
  std::atomic<bool> watching_{false};
  uint32_t protocol_ = 1;
  RouterId id_;
};

}  // namespace

grpc::ServerBidiReactor<wire::RouterMessage, wire::CoordinatorMessage>* PipelineService::Attach(
    grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<RouterStream>(context, coordinator_);
  stream->Begin();
  return stream.get();
}

grpc::ServerWriteReactor<wire::TextBundleChunk>* PipelineService::GetTextBundle(grpc::CallbackServerContext*,
                                                                                const wire::TextBundleRequest* request) {
  using Entries = std::vector<checkpoint::Checkpoint::BundleEntry>;
  absl::StatusOr<Entries> bundle = Entries();
  const auto model = coordinator_.catalog().Find(request->model_digest());
  if (model.ok()) {
    bundle = (*model)->checkpoint().TextBundle();
  } else {
    bundle = model.status();
  }
  if (!bundle.ok()) {
    return ChunkWriter<wire::TextBundleChunk>::Start(
        [status = bundle.status()](wire::TextBundleChunk&) -> absl::StatusOr<bool> { return status; });
  }
  return ChunkWriter<wire::TextBundleChunk>::Start(
      [entries = *std::move(bundle), entry = size_t{0}, offset = size_t{0}](
          wire::TextBundleChunk& chunk) mutable -> absl::StatusOr<bool> {
        if (entry == entries.size()) return false;
        const std::string& bytes = entries[entry].bytes;
        const size_t length = std::min(limits::kBlobChunkBytes, bytes.size() - offset);
        chunk.set_name(entries[entry].name);
        chunk.set_data(bytes.substr(offset, length));
        offset += length;
        if (offset == bytes.size()) {
          ++entry;
          offset = 0;
        }
        return true;
      });
}

}  // namespace pagoda::coordinator
