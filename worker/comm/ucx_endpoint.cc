#include "worker/comm/ucx_endpoint.h"

#include <chrono>
#include <cstring>

#include "common/log.h"
#include "worker/comm/ucx_context.h"

namespace pagoda::worker {
namespace {

using Clock = std::chrono::steady_clock;

// UCX ends the operations of an endpoint closed by force in its next rounds of progress.
constexpr auto kLongestClose = std::chrono::seconds(2);

}  // namespace

void UcxShared::Sweep() {
  // Closing makes progress, which may call back: take them out first.
  std::vector<std::unique_ptr<UcxEndpoint>> closing;
  for (auto entry = kept.begin(); entry != kept.end();) {
    if (!entry->second->broken()) {
      ++entry;
      continue;
    }
    closing.push_back(std::move(entry->second));
    entry = kept.erase(entry);
  }
  for (auto& endpoint : parked) {
    if (endpoint->flushed() || endpoint->broken()) closing.push_back(std::move(endpoint));
  }
  std::erase(parked, nullptr);
}

void UcxShared::Park(std::unique_ptr<UcxEndpoint> endpoint) {
  endpoint->set_owner(nullptr);
  endpoint->KeepData();
  if (!endpoint->broken() && !endpoint->flushing()) endpoint->StartFlush();
  parked.push_back(std::move(endpoint));
  needs_sweep = true;
}

absl::StatusOr<std::unique_ptr<UcxEndpoint>> UcxEndpoint::Open(UcxShared& shared, UcxLink* owner,
                                                               const std::string& address) {
  std::unique_ptr<UcxEndpoint> endpoint(new UcxEndpoint(shared, owner));
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxEndpoint::OnError;
  params.err_handler.arg = endpoint.get();
  const ucs_status_t status = ucp_ep_create(shared.worker, &params, &endpoint->handle_);
  if (status == UCS_OK) return endpoint;
  endpoint->handle_ = nullptr;
  return UcxError(status, "making an endpoint");
}

UcxEndpoint::~UcxEndpoint() {
  owner_ = nullptr;
  if (handle_ == nullptr) return;
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucp_ep_close_nbx(handle_, &param);
  const bool pending = UCS_PTR_IS_PTR(request);
  const auto closed = [&] {
    return (!pending || ucp_request_check_status(request) != UCS_INPROGRESS) &&
           packet_ == nullptr && flush_ == nullptr;
  };
  const Clock::time_point deadline = Clock::now() + kLongestClose;
  while (!closed() && Clock::now() < deadline) ucp_worker_progress(shared_.worker);
  if (!closed()) LogWarning("ucx_close_slow");
  if (pending) ucp_request_free(request);
  // UCX has not given these back: they must outlive us, and their callbacks must not reach us.
  if (packet_ != nullptr) packet_.release()->endpoint = nullptr;
  if (flush_ != nullptr) flush_.release()->endpoint = nullptr;
}

void UcxEndpoint::Tell() {
  if (owner_ != nullptr) {
    shared_.ready.push_back(owner_);
  } else {
    shared_.needs_sweep = true;
  }
}

void UcxEndpoint::Break(ucs_status_t status) {
  if (error_ == UCS_OK) error_ = status;
  Tell();
}

void UcxEndpoint::OnError(void* endpoint, ucp_ep_h, ucs_status_t status) {
  static_cast<UcxEndpoint*>(endpoint)->Break(status);
}

void UcxEndpoint::Send(const PacketHeader& header, std::span<const std::byte> data) {
  auto packet = std::make_unique<Packet>();
  packet->header = header;
  packet->endpoint = this;
  // UCX reads a list of pieces when it sends, not before: that lets KeepData() put others in their
  // place.
  packet->data = {.buffer = const_cast<std::byte*>(data.data()), .length = data.size()};
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                       UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_DATATYPE;
  param.cb.send = &UcxEndpoint::OnSent;
  param.user_data = packet.get();
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  param.datatype = UCP_DATATYPE_IOV;
  void* request = ucp_am_send_nbx(handle_, kPagodaActiveMessage, &packet->header,
                                  sizeof(packet->header), &packet->data, 1, &param);
  if (request == nullptr) return;
  if (UCS_PTR_IS_ERR(request)) {
    Break(UCS_PTR_STATUS(request));
  } else {
    packet_ = std::move(packet);
  }
}

void UcxEndpoint::OnSent(void* request, ucs_status_t status, void* packet) {
  ucp_request_free(request);
  auto* sent = static_cast<Packet*>(packet);
  UcxEndpoint* endpoint = sent->endpoint;
  if (endpoint == nullptr) {
    delete sent;
    return;
  }
  endpoint->packet_ = nullptr;
  if (status != UCS_OK) return endpoint->Break(status);
  endpoint->Tell();
}

void UcxEndpoint::KeepData() {
  if (packet_ == nullptr || packet_->data.length == 0 || packet_->kept != nullptr) return;
  packet_->kept = std::make_unique_for_overwrite<std::byte[]>(packet_->data.length);
  std::memcpy(packet_->kept.get(), packet_->data.buffer, packet_->data.length);
  packet_->data.buffer = packet_->kept.get();
}

void UcxEndpoint::StartFlush() {
  flushed_ = false;
  auto flush = std::make_unique<Flush>(Flush{.endpoint = this});
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = &UcxEndpoint::OnFlushed;
  param.user_data = flush.get();
  void* request = ucp_ep_flush_nbx(handle_, &param);
  if (request == nullptr) {
    flushed_ = true;
    Tell();
  } else if (UCS_PTR_IS_ERR(request)) {
    Break(UCS_PTR_STATUS(request));
  } else {
    flush_ = std::move(flush);
  }
}

void UcxEndpoint::OnFlushed(void* request, ucs_status_t status, void* flush) {
  ucp_request_free(request);
  auto* done = static_cast<Flush*>(flush);
  UcxEndpoint* endpoint = done->endpoint;
  if (endpoint == nullptr) {
    delete done;
    return;
  }
  endpoint->flush_ = nullptr;
  if (status != UCS_OK) return endpoint->Break(status);
  endpoint->flushed_ = true;
  endpoint->Tell();
}

}  // namespace pagoda::worker
