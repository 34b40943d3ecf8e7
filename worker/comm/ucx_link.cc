#include "worker/comm/ucx_link.h"

#include <algorithm>
#include <cstring>

#include "worker/comm/transport_text.h"

namespace pagoda::worker {
UcxTransfer::~UcxTransfer() {
  if (!done_ && link != nullptr) link->Forget(this);
}

UcxLink::UcxLink(UcxShared& shared, const Ends& ends, std::string address)
    : shared_(shared),
      epoch_(ends.epoch),
      token_(ends.secret.token),
      self_(ends.self),
      peer_(ends.peer),
      address_(std::move(address)),
      inbox_(ends.peer, shared.unexpected_bytes, shared.max_unexpected_bytes) {
  if (!ends.secret.key) return;
  seal_ = std::make_unique<PacketSeal>(*ends.secret.key, epoch_, self_, peer_);
  peers_seal_ = std::make_unique<PacketSeal>(*ends.secret.key, epoch_, peer_, self_);
}

UcxLink::~UcxLink() {
  Close(absl::AbortedError(absl::StrCat("epoch ", epoch_.value(), " was aborted")));
}

absl::Status UcxLink::Open() {
  failure_ = absl::OkStatus();
  refusal_ = absl::OkStatus();
  answered_ = flushing_ = ready_said_ = false;
  words_.clear();
  if (endpoint_ != nullptr) shared_.Park(std::move(endpoint_));
  if (const auto kept = shared_.kept.find(address_); kept != shared_.kept.end()) {
    endpoint_ = std::move(kept->second);
    shared_.kept.erase(kept);
    endpoint_->set_owner(this);
  } else {
    auto endpoint = UcxEndpoint::Open(shared_, this, address_);
    if (!endpoint.ok()) {
      failure_ = Annotate(endpoint.status(), absl::StrCat("reaching ", PeerName(peer_)));
      return failure_;
    }
    endpoint_ = *std::move(endpoint);
  }
  Say(PacketKind::kHello);
  return absl::OkStatus();
}

void UcxLink::Say(PacketKind kind) {
  words_.push_back(kind);
  shared_.ready.push_back(this);
}

void UcxLink::Close(const absl::Status& status) {
  FinishAll(status);
  GiveUpEndpoint();
  inbox_.Clear();
  words_.clear();
  std::erase(shared_.ready, this);
}

void UcxLink::FinishAll(const absl::Status& status) {
  inbox_.FinishAll(status);
  // What UCX still has to read of a caller's buffer.
  if (endpoint_ != nullptr) endpoint_->KeepData();
  for (const Outgoing& send : sends_) {
    if (send.transfer == nullptr) continue;
    send.transfer->Finish(Annotate(status, absl::StrCat("send to ", MessageName(peer_, send.tag))),
                          send.sent);
  }
  sends_.clear();
  data_in_flight_ = false;
}

void UcxLink::GiveUpEndpoint() {
  if (endpoint_ == nullptr) return;
  endpoint_->set_owner(nullptr);
  // A working one serves the next epoch; one that this side refuses is not closed halfway either.
  if (endpoint_->broken()) {
    endpoint_ = nullptr;
  } else if (refusal_.ok() && !shared_.kept.contains(address_)) {
    shared_.kept[address_] = std::move(endpoint_);
  } else {
    shared_.Park(std::move(endpoint_));
  }
}

void UcxLink::Fail(absl::Status status) {
  if (!failure_.ok()) return;
  failure_ = std::move(status);
  FinishAll(failure_);
  GiveUpEndpoint();
}

void UcxLink::Proceed() {
  if (endpoint_ == nullptr) return;
  if (!refusal_.ok()) return Fail(refusal_);
  if (endpoint_->broken()) {
    return Fail(absl::UnavailableError(
        absl::StrCat("the link to ", PeerName(peer_),
                     " broke: ", ucs_status_string(endpoint_->error()), " (UCX)")));
  }
  if (answered_ && !flushing_) {
    flushing_ = true;
    endpoint_->StartFlush();
  }
  if (flushing_ && !ready_said_ && endpoint_->flushed()) {
    ready_said_ = true;
    words_.push_back(PacketKind::kReady);
  }
  Pump();
}

PacketHeader UcxLink::Header(PacketKind kind) const {
  PacketHeader header;
  header.kind = kind;
  header.stage = static_cast<uint8_t>(self_.stage);
  header.rank = static_cast<uint8_t>(self_.rank);
  header.epoch = epoch_.value();
  if (seal_ == nullptr) header.proof = token_;
  return header;
}

void UcxLink::Pump() {
  while (endpoint_ != nullptr && !endpoint_->broken() && !endpoint_->busy()) {
    if (data_in_flight_) {
      data_in_flight_ = false;
      Outgoing& send = sends_.front();
      if (send.sent == send.size) {
        if (send.transfer != nullptr) send.transfer->Finish(absl::OkStatus(), send.sent);
        sends_.pop_front();
      }
    } else if (!words_.empty()) {
      const PacketHeader header = Header(words_.front());
      words_.pop_front();
      SendPacket(header, {});
    } else if (!sends_.empty()) {
      SendNextPacket();
    } else {
      return;
    }
  }
}

void UcxLink::SendNextPacket() {
  Outgoing& send = sends_.front();
  PacketHeader header = Header(PacketKind::kData);
  header.channel = send.tag.channel;
  header.step = send.tag.step;
  header.sequence = send.tag.sequence;
  header.message_bytes = send.size;
  header.offset = send.sent;
  const size_t size = std::min(shared_.packet_bytes, send.size - send.sent);
  const std::span<const std::byte> data(send.rest, size);
  send.sent += size;
  send.rest += size;
  data_in_flight_ = true;
  SendPacket(header, data);
}

void UcxLink::SendPacket(PacketHeader header, std::span<const std::byte> data) {
  if (seal_ == nullptr) return endpoint_->Send(header, data);
  sealed_.resize(data.size());
  seal_->Seal(header, data, sealed_.data());
  endpoint_->Send(header, sealed_);
}

std::optional<std::span<const std::byte>> UcxLink::Open(const PacketHeader& header, std::span<const std::byte> data) {
  if (seal_ == nullptr) {
    if (!SameToken(header.proof, token_)) return std::nullopt;
    return data;
  }
  opened_.resize(data.size());
  if (!peers_seal_->Open(header, data, opened_.data())) return std::nullopt;
  return opened_;
}

bool UcxLink::IsProven(const PacketHeader& hello) {
  return seal_ == nullptr ? SameToken(hello.proof, token_) : peers_seal_->IsProven(hello);
}

std::unique_ptr<UcxTransfer> UcxLink::Send(MessageTag tag, std::span<const std::byte> data) {
  auto transfer = std::make_unique<UcxTransfer>(peer_, tag, true);
  if (!failure_.ok()) {
    transfer->Finish(Annotate(failure_, absl::StrCat("send to ", MessageName(peer_, tag))), 0);
    return transfer;
  }
  if (data.size() > kMaxMessageBytes) {
    transfer->Finish(absl::InvalidArgumentError(
                         absl::StrCat("send to ", MessageName(peer_, tag), ": ", data.size(),
                                      " bytes are over the limit of ", kMaxMessageBytes)),
                     0);
    return transfer;
  }
  transfer->link = this;
  shared_.counters.bytes_sent += data.size();
  ++shared_.counters.messages_sent;
  sends_.push_back({.tag = tag,
                    .size = data.size(),
                    .sent = 0,
                    .rest = data.data(),
                    .transfer = transfer.get(),
                    .kept = nullptr});
  Pump();
  return transfer;
}

std::unique_ptr<UcxTransfer> UcxLink::Receive(MessageTag tag, std::span<std::byte> into) {
  auto transfer = std::make_unique<UcxTransfer>(peer_, tag, false);
  transfer->into = into;
  transfer->link = this;
  inbox_.Post(transfer.get(), failure_);
  return transfer;
}

void UcxLink::Forget(UcxTransfer* transfer) {
  if (!transfer->sending()) return inbox_.Forget(transfer);
  const auto send = std::find_if(sends_.begin(), sends_.end(), [&](const Outgoing& candidate) {
    return candidate.transfer == transfer;
  });
  if (send == sends_.end()) return;
  const bool begun = send == sends_.begin() && (data_in_flight_ || send->sent > 0);
  if (!begun) {
    sends_.erase(send);
    return;
  }
  // Part of it is out: the rest must follow, from a copy, or the peer would wait for it before
  // every later message.
  if (data_in_flight_) endpoint_->KeepData();
  const size_t left = send->size - send->sent;
  send->transfer = nullptr;
  send->kept = std::make_unique_for_overwrite<std::byte[]>(left);
  if (left != 0) std::memcpy(send->kept.get(), send->rest, left);
  send->rest = send->kept.get();
}

void UcxLink::Arrived(const PacketHeader& header, std::span<const std::byte> data) {
  if (!failure_.ok() || !refusal_.ok() || endpoint_ == nullptr || endpoint_->broken()) return;
  switch (header.kind) {
    case PacketKind::kHello:
      return AnswerHello();
    case PacketKind::kHelloAnswer:
      answered_ = true;
      shared_.ready.push_back(this);
      return;
    case PacketKind::kReady:
      ready_heard_ = true;
      return;
    case PacketKind::kData:
      break;
  }
  refusal_ = inbox_.Arrived(header, data);
  shared_.counters.bytes_received += data.size();
  if (!refusal_.ok()) shared_.ready.push_back(this);
}

}  // namespace pagoda::worker
