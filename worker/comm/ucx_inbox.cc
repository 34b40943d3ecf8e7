#include "worker/comm/ucx_inbox.h"

#include <algorithm>
#include <cstring>

#include "worker/comm/transport_text.h"

namespace pagoda::worker {

absl::Status UcxInbox::WrongSize(const MessageTag& tag, uint64_t came, size_t expected) const {
  return absl::InvalidArgumentError(absl::StrCat("receive from ", MessageName(peer_, tag), ": ",
                                                 came, " bytes came where ", expected,
                                                 " were expected"));
}

absl::Status UcxInbox::Arrived(const PacketHeader& header, std::span<const std::byte> data) {
  if (header.offset == 0 && incoming_.arrived == incoming_.size)
    PAGODA_RETURN_IF_ERROR(Begin(header));
  if (!SameTag(TagOf(header), incoming_.tag) || header.message_bytes != incoming_.size ||
      header.offset != incoming_.arrived || data.size() > incoming_.size - incoming_.arrived) {
    return absl::DataLossError(
        absl::StrCat(MessageName(peer_, TagOf(header)), ": packets came out of order"));
  }
  std::byte* place = nullptr;
  if (incoming_.transfer != nullptr) place = incoming_.transfer->into.data();
  if (incoming_.unexpected != nullptr) {
    place = incoming_.unexpected->data.get();
    incoming_.unexpected->arrived += data.size();
  }
  if (place != nullptr && !data.empty())
    std::memcpy(place + incoming_.arrived, data.data(), data.size());
  incoming_.arrived += data.size();
  if (incoming_.arrived == incoming_.size) {
    if (incoming_.transfer != nullptr) incoming_.transfer->Finish(absl::OkStatus(), incoming_.size);
    incoming_ = {};
  }
  return absl::OkStatus();
}

absl::Status UcxInbox::Begin(const PacketHeader& header) {
  if (header.message_bytes > kMaxMessageBytes) {
    return absl::DataLossError(absl::StrCat(MessageName(peer_, TagOf(header)), ": ",
                                            header.message_bytes, " bytes are over the limit of ",
                                            kMaxMessageBytes));
  }
  incoming_ = {.tag = TagOf(header),
               .size = header.message_bytes,
               .arrived = 0,
               .transfer = nullptr,
               .unexpected = nullptr};
  if (UcxTransfer* transfer = TakePosted(incoming_.tag)) {
    if (transfer->into.size() == header.message_bytes) {
      incoming_.transfer = transfer;
    } else {
      transfer->Finish(WrongSize(incoming_.tag, header.message_bytes, transfer->into.size()), 0);
    }
    return absl::OkStatus();
  }
  if (header.message_bytes > max_unexpected_bytes_ - unexpected_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat(MessageName(peer_, incoming_.tag),
                                                     ": messages that nobody asked for take over ",
                                                     max_unexpected_bytes_, " bytes"));
  }
  unexpected_bytes_ += header.message_bytes;
  unexpected_.push_back(
      {.tag = incoming_.tag,
       .size = header.message_bytes,
       .arrived = 0,
       .data = std::make_unique_for_overwrite<std::byte[]>(header.message_bytes)});
  incoming_.unexpected = &unexpected_.back();
  return absl::OkStatus();
}

UcxTransfer* UcxInbox::TakePosted(const MessageTag& tag) {
  const auto found = std::find_if(posted_.begin(), posted_.end(), [&](const UcxTransfer* transfer) {
    return SameTag(transfer->tag(), tag);
  });
  if (found == posted_.end()) return nullptr;
  UcxTransfer* transfer = *found;
  posted_.erase(found);
  return transfer;
}

void UcxInbox::Post(UcxTransfer* transfer, const absl::Status& broken) {
  const auto message = std::find_if(
      unexpected_.begin(), unexpected_.end(),
      [&](const Unexpected& candidate) { return SameTag(candidate.tag, transfer->tag()); });
  const bool arriving = message != unexpected_.end() && incoming_.unexpected == &*message;
  if (message == unexpected_.end() || (arriving && !broken.ok())) {
    if (broken.ok()) {
      posted_.push_back(transfer);
    } else {
      transfer->Finish(
          Annotate(broken, absl::StrCat("receive from ", MessageName(peer_, transfer->tag()))), 0);
    }
    return;
  }
  if (arriving) incoming_.unexpected = nullptr;
  if (message->size != transfer->into.size()) {
    transfer->Finish(WrongSize(transfer->tag(), message->size, transfer->into.size()), 0);
  } else {
    if (message->arrived != 0)
      std::memcpy(transfer->into.data(), message->data.get(), message->arrived);
    if (arriving) {
      incoming_.transfer = transfer;
    } else {
      transfer->Finish(absl::OkStatus(), message->size);
    }
  }
  Free(message);
}

void UcxInbox::Free(std::list<Unexpected>::iterator message) {
  unexpected_bytes_ -= message->size;
  unexpected_.erase(message);
}

void UcxInbox::Forget(const UcxTransfer* transfer) {
  std::erase(posted_, transfer);
  if (incoming_.transfer == transfer) incoming_.transfer = nullptr;
}

void UcxInbox::FinishAll(const absl::Status& status) {
  const auto finish = [&](UcxTransfer* transfer) {
    transfer->Finish(
        Annotate(status, absl::StrCat("receive from ", MessageName(peer_, transfer->tag()))), 0);
  };
  for (UcxTransfer* transfer : posted_) finish(transfer);
  posted_.clear();
  if (incoming_.transfer != nullptr) finish(std::exchange(incoming_.transfer, nullptr));
}

void UcxInbox::Clear() {
  incoming_ = {};
  while (!unexpected_.empty()) Free(unexpected_.begin());
}

}  // namespace pagoda::worker
