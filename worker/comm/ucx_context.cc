#include "worker/comm/ucx_context.h"

#include <poll.h>
#include <signal.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "common/hex.h"
#include "worker/comm/packet.h"

namespace pagoda::worker {
namespace {

// UCX's process-wide settings: our handlers of signals stay ours, and whoever first decides what an
// error is logs it (that is us: UCX would print a line for every peer that dies).
void SettleProcess() {
  static std::once_flag once;
  std::call_once(once, [] {
    ucs_global_opts_set_value("LOG_LEVEL", "fatal");
    ucs_global_opts_set_value("HANDLE_ERRORS", "none");
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT})
      ucs_debug_disable_signal(number);
  });
}

// UCX's own headers and ours.
constexpr size_t kHeaderRoom = 256;
static_assert(sizeof(PacketHeader) < kHeaderRoom / 2);

// UCX reads an address without knowing how long it is, so what is handed to it must be whole.
constexpr std::string_view kAddressPrefix = "pagoda-ucx-1.13:";
constexpr size_t kChecksumDigits = 16;

uint64_t Checksum(std::string_view bytes) {  // FNV-1a
  uint64_t sum = 0xcbf29ce484222325ULL;
  for (const char byte : bytes) sum = (sum ^ static_cast<uint8_t>(byte)) * 0x100000001b3ULL;
  return sum;
}

// How many looks in vain are borne before a nap: about a millisecond's worth, which nobody spends
// whose peer is at work.
constexpr int kVainLooks = 256;
// Naps grow by an eighth, so what one adds is small against what has been waited already.
constexpr absl::Duration kFirstNap = absl::Microseconds(100);
constexpr absl::Duration kLongestNap = absl::Milliseconds(10);
// A sleep of that long was none in vain.
constexpr auto kRealSleep = std::chrono::microseconds(200);

using Settings = std::vector<std::pair<const char*, std::string>>;

Settings SettingsOf(const UcxOptions& options) {
  // A packet with its headers is one segment of any of these; where a transport has smaller ones
  // (RDMA), UCX cuts and joins.
  const std::string segment = absl::StrCat(options.packet_bytes + kHeaderRoom);
  Settings settings = {
      {"TLS", options.transports == "auto" ? "all" : options.transports},
      // Never a rendezvous, never a send that pins the caller's buffer for longer than the call
      // needs.
      {"RNDV_THRESH", "inf"},
      {"ZCOPY_THRESH", "inf"},
      {"MAX_EAGER_RAILS", "1"},
      {"POSIX_SEG_SIZE", segment},
      {"SYSV_SEG_SIZE", segment},
      {"TCP_TX_SEG_SIZE", segment},
      {"TCP_RX_SEG_SIZE", segment},
      {"KEEPALIVE_INTERVAL", absl::StrCat(absl::ToInt64Milliseconds(options.keepalive), "ms")},
      // Without it UCX 1.13 refuses shared memory to endpoints that report dead peers.
      {"MM_ERROR_HANDLING", "y"},
      {"POSIX_ERROR_HANDLING", "y"},
      {"SYSV_ERROR_HANDLING", "y"},
  };
  if (!options.net_devices.empty()) settings.emplace_back("NET_DEVICES", options.net_devices);
  if (!options.tcp_port_range.empty())
    settings.emplace_back("TCP_PORT_RANGE", options.tcp_port_range);
  for (const auto& [key, value] : options.settings) settings.emplace_back(key.c_str(), value);
  return settings;
}

}  // namespace

absl::Status UcxError(ucs_status_t status, std::string_view doing) {
  const std::string text = absl::StrCat(AsAbsl(doing), ": ", ucs_status_string(status), " (UCX)");
  switch (status) {
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return absl::InvalidArgumentError(text);
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_EXCEEDS_LIMIT:
      return absl::ResourceExhaustedError(text);
    case UCS_ERR_CANCELED:
      return absl::AbortedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::StatusOr<std::string> RawUcxAddress(std::string_view address) {
  const size_t start = kAddressPrefix.size() + kChecksumDigits;
  if (address.size() > start && address.starts_with(kAddressPrefix)) {
    const std::string_view raw = address.substr(start);
    if (address.substr(kAddressPrefix.size(), kChecksumDigits) == HexEncode64(Checksum(raw)))
      return std::string(raw);
  }
  return absl::InvalidArgumentError(
      "not a data-plane address of this build (cut, or of another transport)");
}

absl::StatusOr<std::unique_ptr<UcxContext>> UcxContext::Create(const UcxOptions& options) {
  SettleProcess();
  std::unique_ptr<UcxContext> context(new UcxContext());
  PAGODA_RETURN_IF_ERROR(context->Start(options));
  return context;
}

absl::Status UcxContext::Start(const UcxOptions& options) {
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return UcxError(status, "reading UCX's configuration");
  for (const auto& [key, value] : SettingsOf(options)) {
    status = ucp_config_modify(config, key, value.c_str());
    if (status != UCS_OK) {
      ucp_config_release(config);
      return absl::InvalidArgumentError(
          absl::StrCat("UCX does not take ", key, "=", value, ": ", ucs_status_string(status)));
    }
  }
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 0;
  status = ucp_init(&params, config, &context_);
  ucp_config_release(config);
  if (status != UCS_OK) {
    return UcxError(status,
                    absl::StrCat("starting UCX with transports \"", options.transports, "\""));
  }
  ucp_worker_params_t worker_params = {};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
  status = ucp_worker_create(context_, &worker_params, &worker_);
  if (status != UCS_OK) {
    return UcxError(
        status, absl::StrCat("starting a UCX worker with transports \"", options.transports, "\""));
  }
  status = ucp_worker_get_efd(worker_, &descriptor_);
  if (status != UCS_OK) return UcxError(status, "getting UCX's event descriptor");
  ucp_address_t* address = nullptr;
  size_t length = 0;
  status = ucp_worker_get_address(worker_, &address, &length);
  if (status != UCS_OK) return UcxError(status, "getting UCX's address");
  const std::string raw(reinterpret_cast<const char*>(address), length);
  address_ = absl::StrCat(AsAbsl(kAddressPrefix), HexEncode64(Checksum(raw)), raw);
  ucp_worker_release_address(worker_, address);
  return absl::OkStatus();
}

UcxContext::~UcxContext() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

bool UcxContext::Nap(int wake_descriptor, absl::Duration timeout) {
  nap_ = vain_looks_ == kVainLooks ? kFirstNap : std::min(nap_ + nap_ / 8, kLongestNap);
  vain_looks_ = kVainLooks + 1;  // the next nap is longer
  pollfd descriptor = {.fd = wake_descriptor, .events = POLLIN, .revents = 0};
  const timespec limit = absl::ToTimespec(std::min(timeout, nap_));
  return ppoll(&descriptor, 1, &limit, nullptr) > 0;
}

bool UcxContext::Sleep(int wake_descriptor, absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) return false;
  if (vain_looks_ >= kVainLooks) {
    if (Nap(wake_descriptor, timeout)) return true;
    timeout -= nap_;
    if (timeout <= absl::ZeroDuration()) return false;
  } else {
    ++vain_looks_;
  }
  if (ucp_worker_arm(worker_) != UCS_OK) return false;
  pollfd descriptors[] = {{.fd = descriptor_, .events = POLLIN, .revents = 0},
                          {.fd = wake_descriptor, .events = POLLIN, .revents = 0}};
  const timespec limit = absl::ToTimespec(std::min(timeout, absl::Hours(24)));
  const auto before = std::chrono::steady_clock::now();
  const int readable = ppoll(descriptors, 2, &limit, nullptr);
  if (std::chrono::steady_clock::now() - before >= kRealSleep) vain_looks_ = 0;
  return readable > 0 && descriptors[1].revents != 0;
}

}  // namespace pagoda::worker
