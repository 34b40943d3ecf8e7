// A UCX endpoint with at most one packet in flight. Internal to ucx_link.cc, of its thread.
//
// Closing has two traps in UCX 1.13 over TCP. An endpoint closed by force while a packet is half
// written leaves the rest of it in the stream behind the farewell, and a later event of that socket
// reaches freed memory. And where one side has closed more often than the other, they may never
// find each other again. So endpoints outlive epochs (UcxShared::kept, by address) and are closed
// only when they break; one that has to be replaced is first parked until it has nothing half
// written.
#pragma once

#include <ucp/api/ucp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/comm/packet.h"
#include "worker/comm/transport.h"

namespace pagoda::worker {

class UcxEndpoint;
class UcxLink;

inline constexpr unsigned kPagodaActiveMessage = 1;

// What all links of one transport share. Outlives them.
struct UcxShared {
  ucp_worker_h worker = nullptr;
  size_t packet_bytes = 0;
  size_t max_unexpected_bytes = 0;
  size_t unexpected_bytes = 0;
  uint64_t packets_received = 0;
  Transport::Counters counters;
  std::vector<UcxLink*>
      ready;  // something happened to their endpoint, or they have something to send
  std::map<std::string, std::unique_ptr<UcxEndpoint>>
      kept;                                          // by the peer's address; of no link now
  std::vector<std::unique_ptr<UcxEndpoint>> parked;  // to be closed when flushed

  bool needs_sweep = false;

  // Closes what broke and what is parked and flushed.
  void Sweep();
  void Park(std::unique_ptr<UcxEndpoint> endpoint);
};

class UcxEndpoint {
 public:
  // `owner` is put on shared.ready when a packet is done, a flush is done or the endpoint breaks.
  static absl::StatusOr<std::unique_ptr<UcxEndpoint>> Open(UcxShared& shared, UcxLink* owner,
                                                           const std::string& address);
  // Closes by force, and blocks a moment at most.
  ~UcxEndpoint();
  UcxEndpoint(const UcxEndpoint&) = delete;
  UcxEndpoint& operator=(const UcxEndpoint&) = delete;

  bool broken() const { return error_ != UCS_OK; }
  ucs_status_t error() const { return error_; }
  bool busy() const { return packet_ != nullptr; }
  bool flushing() const { return flush_ != nullptr; }
  bool flushed() const { return flushed_; }

  // Requires !busy() and !broken(). `data` must stay as it is while busy(), unless KeepData() is
  // called.
  void Send(const PacketHeader& header, std::span<const std::byte> data);
  // Copies what the packet in flight still has to read.
  void KeepData();
  // flushed() becomes true when all that was sent has left for the peer.
  void StartFlush();
  void set_owner(UcxLink* owner) { owner_ = owner; }

 private:
  // What UCX reads until the packet is done.
  struct Packet {
    PacketHeader header;
    ucp_dt_iov_t data = {};
    std::unique_ptr<std::byte[]> kept;
    UcxEndpoint* endpoint = nullptr;
  };
  struct Flush {
    UcxEndpoint* endpoint = nullptr;
  };

  UcxEndpoint(UcxShared& shared, UcxLink* owner) : shared_(shared), owner_(owner) {}
  void Tell();
  void Break(ucs_status_t status);
  static void OnSent(void* request, ucs_status_t status, void* packet);
  static void OnFlushed(void* request, ucs_status_t status, void* flush);
  static void OnError(void* endpoint, ucp_ep_h handle, ucs_status_t status);

  UcxShared& shared_;
  UcxLink* owner_;
  ucp_ep_h handle_ = nullptr;
  ucs_status_t error_ = UCS_OK;
  bool flushed_ = false;
  std::unique_ptr<Packet> packet_;
  std::unique_ptr<Flush> flush_;
};

}  // namespace pagoda::worker
