// Transport over UCX 1.13: shared memory, TCP and, where the machine has it, RDMA.
//
// Every message goes as eager active messages of at most Options::packet_bytes, one after the other
// on each link; there is no rendezvous. So UCX never writes into a caller's buffer behind our back:
// a receive can be dropped at any moment, and a peer that stops in the middle of a message holds
// nothing of ours. A packet names its epoch, sender, channel, step and sequence in full (packet.h);
// packets of another epoch are dropped where they arrive.
//
// Owned by one thread (Wake() aside). No thread of its own makes progress: what does not fit into
// the transport's queues moves when its owner calls Send, Wait or Idle (Idle(0) only moves and
// never sleeps). Errors of peers end their link, with kUnavailable for its transfers, and nothing
// else.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/comm/transport.h"

namespace pagoda::worker {

// Payload of one packet. Measured (bench/comm): with UCX's 8 KB, TCP pays a call into the kernel
// for each and 18 KB take twice as long as with 64 KB; shared memory gains a little at the ends of
// the scale and loses little between.
inline constexpr size_t kUcxPacketBytes = 65536;

struct UcxOptions {
  // UCX_TLS: "auto" takes what is there, RDMA too; or a list, such as "posix,sysv,tcp,self".
  std::string transports = "auto";
  std::string net_devices;     // UCX_NET_DEVICES, such as "eth0"; empty: all
  std::string tcp_port_range;  // UCX_TCP_PORT_RANGE, such as "13500-13600"; empty: any
  // How long a wait spins before it sleeps. Zero where ranks outnumber cores: spinning then keeps
  // the peer from working.
  absl::Duration spin = absl::Microseconds(20);
  // A silent dead peer (no socket that breaks) is noticed within about twice this.
  absl::Duration keepalive = absl::Milliseconds(500);
  size_t packet_bytes = kUcxPacketBytes;
  // Arrived and not yet asked for, over all peers; a link that brings more is cut.
  size_t max_unexpected_bytes = size_t{1} << 30;
  // Further UCX settings by their names without UCX_, over our own. For measurements.
  std::vector<std::pair<std::string, std::string>> settings;
};

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options);

}  // namespace pagoda::worker
