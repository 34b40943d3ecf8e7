#include "worker/comm/ucx_link.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "common/log.h"
#include "worker/comm/transport_text.h"
#include "worker/comm/ucx_context.h"

namespace pagoda::worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kActiveMessage = 1;
// UCX ends the operations of an endpoint closed by force in its next rounds of progress.
constexpr auto kLongestClose = std::chrono::seconds(2);
// A send that is dropped while a packet of it is in flight waits that long for the peer, then gives
// up the link.
constexpr auto kLongestDrop = std::chrono::milliseconds(200);

template <typename Condition>
bool ProgressUntil(ucp_worker_h worker, Clock::duration timeout, Condition&& condition) {
  const Clock::time_point deadline = Clock::now() + timeout;
  while (!condition()) {
    if (Clock::now() >= deadline) return false;
    ucp_worker_progress(worker);
  }
  return true;
}

}  // namespace

UcxTransfer::~UcxTransfer() {
  if (!done_ && link_ != nullptr) link_->Forget(this);
}

void UcxTransfer::Finish(absl::Status status) {
  done_ = true;
  ok_ = status.ok();
  status_ = std::move(status);
  link_ = nullptr;
}

std::unique_ptr<UcxTransfer> UcxTransfer::Failed(PeerId peer, MessageTag tag, absl::Status status) {
  std::unique_ptr<UcxTransfer> transfer(new UcxTransfer(peer, tag));
  transfer->Finish(std::move(status));
  return transfer;
}

UcxLink::UcxLink(UcxShared& shared, Epoch epoch, PeerId self, PeerId peer, std::string address)
    : shared_(shared), epoch_(epoch), self_(self), peer_(peer), address_(std::move(address)) {}

UcxLink::~UcxLink() {
  Close(absl::AbortedError(absl::StrCat("epoch ", epoch_.value(), " was aborted")));
}

absl::Status UcxLink::Open() {
  failure_ = absl::OkStatus();
  refusal_ = absl::OkStatus();
  endpoint_error_ = UCS_OK;
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address_.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxLink::OnError;
  params.err_handler.arg = this;
  const ucs_status_t status = ucp_ep_create(shared_.worker, &params, &endpoint_);
  if (status == UCS_OK) return absl::OkStatus();
  endpoint_ = nullptr;
  failure_ = UcxError(status, absl::StrCat("reaching ", PeerName(peer_)));
  return failure_;
}

void UcxLink::Close(const absl::Status& status) {
  FinishAll(status);
  CloseEndpoint();
  // Now that nothing is under way.
  while (!unexpected_.empty()) FreeUnexpected(unexpected_.begin());
  incoming_ = {};
  hellos_.clear();
  finishes_send_ = false;
  std::erase(shared_.ready, this);
}

void UcxLink::FinishAll(const absl::Status& status) {
  for (UcxTransfer* transfer : posted_) transfer->Finish(status);
  posted_.clear();
  if (incoming_.transfer != nullptr) incoming_.transfer->Finish(status);
  incoming_.transfer = nullptr;
  // A packet in flight still reads its sender's buffer: the endpoint goes first.
  if (!sends_.empty() && in_flight_ != nullptr) CloseEndpoint();
  for (UcxTransfer* transfer : sends_) transfer->Finish(status);
  sends_.clear();
}

void UcxLink::CloseEndpoint() {
  if (endpoint_ == nullptr) return;
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucp_ep_close_nbx(endpoint_, &param);
  endpoint_ = nullptr;
  bool closed = true;
  if (UCS_PTR_IS_PTR(request)) {
    closed = ProgressUntil(shared_.worker, kLongestClose,
                           [&] { return ucp_request_check_status(request) != UCS_INPROGRESS; });
    ucp_request_free(request);
  }
  if (in_flight_ != nullptr) {
    closed &= ProgressUntil(shared_.worker, kLongestClose, [&] { return in_flight_->done; });
    // UCX has not given it back: it must outlive us, and its callback must not reach this link.
    if (!in_flight_->done) in_flight_.release()->link = nullptr;
    in_flight_ = nullptr;
  }
  if (!closed) LogWarning("ucx_close_slow", {{"peer", PeerName(peer_)}, {"epoch", epoch_.value()}});
}

void UcxLink::Fail(absl::Status status) {
  if (!failure_.ok()) return;
  failure_ = std::move(status);
  // What has arrived whole may still be read.
  FinishAll(failure_);
  CloseEndpoint();
}

void UcxLink::OnError(void* link, ucp_ep_h, ucs_status_t status) {
  auto* self = static_cast<UcxLink*>(link);
  self->endpoint_error_ = status;
  self->shared_.ready.push_back(self);
}

void UcxLink::OnSent(void* request, ucs_status_t status, void* packet) {
  ucp_request_free(request);
  auto* sent = static_cast<Packet*>(packet);
  if (sent->link == nullptr) {
    delete sent;
    return;
  }
  sent->done = true;
  UcxLink* link = sent->link;
  if (status != UCS_OK && link->endpoint_error_ == UCS_OK) link->endpoint_error_ = status;
  link->shared_.ready.push_back(link);
}

void UcxLink::Proceed() {
  if (endpoint_ == nullptr) return;
  if (endpoint_error_ != UCS_OK) {
    Fail(!refusal_.ok()
             ? refusal_
             : absl::UnavailableError(absl::StrCat("the link to ", PeerName(peer_), " broke: ",
                                                   ucs_status_string(endpoint_error_), " (UCX)")));
    return;
  }
  if (in_flight_ != nullptr && in_flight_->done) {
    in_flight_ = nullptr;
    if (finishes_send_) {
      sends_.front()->Finish(absl::OkStatus());
      sends_.pop_front();
      finishes_send_ = false;
    }
  }
  Pump();
}

PacketHeader UcxLink::Header(PacketKind kind) const {
  PacketHeader header;
  header.kind = kind;
  header.stage = static_cast<uint8_t>(self_.stage);
  header.rank = static_cast<uint8_t>(self_.rank);
  header.epoch = epoch_.value();
  return header;
}

void UcxLink::SendHello(PacketKind kind) {
  hellos_.push_back(kind);
  shared_.ready.push_back(this);
}

void UcxLink::Pump() {
  while (in_flight_ == nullptr && endpoint_ != nullptr && endpoint_error_ == UCS_OK &&
         !hellos_.empty()) {
    const PacketHeader header = Header(hellos_.front());
    hellos_.pop_front();
    SendPacket(header, {});
  }
  while (in_flight_ == nullptr && endpoint_ != nullptr && endpoint_error_ == UCS_OK &&
         !sends_.empty()) {
    UcxTransfer* transfer = sends_.front();
    PacketHeader header = Header(PacketKind::kData);
    header.channel = transfer->tag_.channel;
    header.step = transfer->tag_.step;
    header.sequence = transfer->tag_.sequence;
    header.message_bytes = transfer->data_.size();
    header.offset = transfer->moved_;
    const size_t size = std::min(shared_.packet_bytes, transfer->data_.size() - transfer->moved_);
    const auto data = transfer->data_.subspan(transfer->moved_, size);
    transfer->moved_ += size;
    const bool last = transfer->moved_ == transfer->data_.size();
    if (SendPacket(header, data)) {
      if (!last) continue;
      transfer->Finish(absl::OkStatus());
      sends_.pop_front();
    } else {
      finishes_send_ = last;
    }
  }
}

bool UcxLink::SendPacket(const PacketHeader& header, std::span<const std::byte> data) {
  auto packet = std::make_unique<Packet>(Packet{.header = header, .link = this, .done = false});
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.cb.send = &UcxLink::OnSent;
  param.user_data = packet.get();
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  void* request = ucp_am_send_nbx(endpoint_, kActiveMessage, &packet->header,
                                  sizeof(packet->header), data.data(), data.size(), &param);
  if (request == nullptr) return true;
  if (UCS_PTR_IS_ERR(request)) {
    endpoint_error_ = UCS_PTR_STATUS(request);
    shared_.ready.push_back(this);
    return false;
  }
  in_flight_ = std::move(packet);
  return false;
}

std::unique_ptr<UcxTransfer> UcxLink::Send(MessageTag tag, std::span<const std::byte> data) {
  std::unique_ptr<UcxTransfer> transfer(new UcxTransfer(peer_, tag));
  transfer->sending_ = true;
  if (!failure_.ok()) {
    transfer->Finish(Annotate(failure_, absl::StrCat("send to ", MessageName(peer_, tag))));
    return transfer;
  }
  if (data.size() > kMaxMessageBytes) {
    transfer->Finish(absl::InvalidArgumentError(
        absl::StrCat("send to ", MessageName(peer_, tag), ": ", data.size(),
                     " bytes are over the limit of ", kMaxMessageBytes)));
    return transfer;
  }
  transfer->data_ = data;
  transfer->link_ = this;
  shared_.counters.bytes_sent += data.size();
  ++shared_.counters.messages_sent;
  sends_.push_back(transfer.get());
  Pump();
  return transfer;
}

std::unique_ptr<UcxTransfer> UcxLink::Receive(MessageTag tag, std::span<std::byte> into) {
  std::unique_ptr<UcxTransfer> transfer(new UcxTransfer(peer_, tag));
  transfer->into_ = into;
  transfer->link_ = this;
  const auto message =
      std::find_if(unexpected_.begin(), unexpected_.end(),
                   [&](const Unexpected& candidate) { return SameTag(candidate.tag, tag); });
  if (message != unexpected_.end()) {
    TakeUnexpected(message, transfer.get());
  } else if (!failure_.ok()) {
    transfer->Finish(Annotate(failure_, absl::StrCat("receive from ", MessageName(peer_, tag))));
  } else {
    posted_.push_back(transfer.get());
  }
  return transfer;
}

namespace {

absl::Status WrongSize(PeerId peer, MessageTag tag, uint64_t came, size_t expected) {
  return absl::InvalidArgumentError(absl::StrCat("receive from ", MessageName(peer, tag), ": ",
                                                 came, " bytes came where ", expected,
                                                 " were expected"));
}

}  // namespace

void UcxLink::TakeUnexpected(std::list<Unexpected>::iterator message, UcxTransfer* transfer) {
  const bool arriving = incoming_.unexpected == &*message;
  if (message->size != transfer->into_.size()) {
    transfer->Finish(WrongSize(peer_, transfer->tag_, message->size, transfer->into_.size()));
    if (arriving) incoming_.unexpected = nullptr;
  } else if (arriving && !failure_.ok()) {
    transfer->Finish(
        Annotate(failure_, absl::StrCat("receive from ", MessageName(peer_, transfer->tag_))));
    incoming_.unexpected = nullptr;
  } else {
    if (message->arrived != 0)
      std::memcpy(transfer->into_.data(), message->data.get(), message->arrived);
    transfer->moved_ = message->arrived;
    if (arriving) {
      incoming_.unexpected = nullptr;
      incoming_.transfer = transfer;
    } else {
      transfer->Finish(absl::OkStatus());
    }
  }
  FreeUnexpected(message);
}

void UcxLink::FreeUnexpected(std::list<Unexpected>::iterator message) {
  shared_.unexpected_bytes -= message->size;
  unexpected_.erase(message);
}

UcxTransfer* UcxLink::Posted(const MessageTag& tag) {
  const auto found = std::find_if(posted_.begin(), posted_.end(), [&](const UcxTransfer* transfer) {
    return SameTag(transfer->tag_, tag);
  });
  if (found == posted_.end()) return nullptr;
  UcxTransfer* transfer = *found;
  posted_.erase(found);
  return transfer;
}

absl::Status UcxLink::BeginIncoming(const PacketHeader& header) {
  if (header.message_bytes > kMaxMessageBytes) {
    return absl::DataLossError(absl::StrCat("a message of ", header.message_bytes,
                                            " bytes is over the limit of ", kMaxMessageBytes));
  }
  incoming_ = {.tag = TagOf(header),
               .size = header.message_bytes,
               .arrived = 0,
               .transfer = nullptr,
               .unexpected = nullptr};
  if (UcxTransfer* transfer = Posted(incoming_.tag)) {
    if (transfer->into_.size() == header.message_bytes) {
      incoming_.transfer = transfer;
    } else {
      transfer->Finish(
          WrongSize(peer_, incoming_.tag, header.message_bytes, transfer->into_.size()));
    }
    return absl::OkStatus();
  }
  if (header.message_bytes > shared_.max_unexpected_bytes - shared_.unexpected_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("messages that nobody asked for take over ",
                                                     shared_.max_unexpected_bytes, " bytes"));
  }
  shared_.unexpected_bytes += header.message_bytes;
  unexpected_.push_back(
      {.tag = incoming_.tag,
       .size = header.message_bytes,
       .arrived = 0,
       .data = std::make_unique_for_overwrite<std::byte[]>(header.message_bytes)});
  incoming_.unexpected = &unexpected_.back();
  return absl::OkStatus();
}

void UcxLink::Arrived(const PacketHeader& header, std::span<const std::byte> data) {
  if (!failure_.ok() || endpoint_error_ != UCS_OK) return;
  absl::Status status;
  if (header.offset == 0 && incoming_.arrived == incoming_.size) status = BeginIncoming(header);
  if (status.ok() &&
      (!SameTag(TagOf(header), incoming_.tag) || header.message_bytes != incoming_.size ||
       header.offset != incoming_.arrived || data.size() > incoming_.size - incoming_.arrived)) {
    status = absl::DataLossError("packets came out of order");
  }
  if (!status.ok()) {
    // Not from within UCX's callback: the endpoint is closed later.
    refusal_ = Annotate(status, MessageName(peer_, TagOf(header)));
    endpoint_error_ = UCS_ERR_REJECTED;
    shared_.ready.push_back(this);
    return;
  }
  if (!data.empty()) {
    if (incoming_.transfer != nullptr) {
      std::memcpy(incoming_.transfer->into_.data() + incoming_.arrived, data.data(), data.size());
      incoming_.transfer->moved_ += data.size();
    } else if (incoming_.unexpected != nullptr) {
      std::memcpy(incoming_.unexpected->data.get() + incoming_.arrived, data.data(), data.size());
      incoming_.unexpected->arrived += data.size();
    }
  }
  incoming_.arrived += data.size();
  shared_.counters.bytes_received += data.size();
  if (incoming_.arrived == incoming_.size) {
    if (incoming_.transfer != nullptr) incoming_.transfer->Finish(absl::OkStatus());
    incoming_ = {};
  }
}

void UcxLink::Forget(UcxTransfer* transfer) {
  std::erase(posted_, transfer);
  if (incoming_.transfer == transfer) incoming_.transfer = nullptr;
  const auto send = std::find(sends_.begin(), sends_.end(), transfer);
  if (send == sends_.end()) return;
  if (transfer->moved_ == 0 && !finishes_send_) {
    sends_.erase(send);
    return;
  }
  // Part of it is out: the rest must follow, or the peer waits for it before every later message.
  const bool sent = ProgressUntil(shared_.worker, kLongestDrop, [&] {
    Proceed();
    return transfer->done_;
  });
  if (!sent)
    Fail(absl::UnavailableError(
        absl::StrCat(PeerName(peer_), " did not take a message that was dropped halfway")));
}

}  // namespace pagoda::worker
