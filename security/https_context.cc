#include "security/https_context.h"

#include <cstring>

#include "common/log.h"
#include "security/certificate_files.h"
#include "security/openssl_handles.h"

namespace pagoda::security {
namespace {

constexpr MonotonicNs kLookEveryNs = kNsPerSecond;

// HTTP/1.1 is all that is spoken; a client that offers only others is refused in the handshake.
int ChooseProtocol(SSL*, const unsigned char** chosen, unsigned char* chosen_size, const unsigned char* offered,
                   unsigned offered_size, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* match = nullptr;
  if (SSL_select_next_proto(&match, chosen_size, kOurs, sizeof(kOurs) - 1, offered, offered_size) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *chosen = match;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpsContext>> HttpsContext::Load(std::string certificate, std::string key,
                                                                 std::string client_authority) {
  PAGODA_RETURN_IF_ERROR(CheckServerFiles(certificate, key));
  std::unique_ptr<HttpsContext> context(new HttpsContext());
  context->certificate_ = std::move(certificate);
  context->key_ = std::move(key);
  context->client_authority_ = std::move(client_authority);
  context->read_change_ = context->NewestChange();
  PAGODA_ASSIGN_OR_RETURN(context->current_, context->Read());
  return context;
}

std::filesystem::file_time_type HttpsContext::NewestChange() const {
  std::filesystem::file_time_type newest = std::filesystem::file_time_type::min();
  for (const std::string* path : {&certificate_, &key_, &client_authority_}) {
    std::error_code error;
    const auto time = path->empty() ? newest : std::filesystem::last_write_time(*path, error);
    if (!error && time > newest) newest = time;
  }
  return newest;
}

absl::StatusOr<std::shared_ptr<ssl_ctx_st>> HttpsContext::Read() const {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  SSL_CTX* raw = context.get();
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_cipher_list(raw, "ECDHE+AESGCM:ECDHE+CHACHA20");
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_alpn_select_cb(raw, ChooseProtocol, nullptr);
  SSL_CTX_set_session_id_context(raw, reinterpret_cast<const unsigned char*>("pagoda"), 6);
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(raw, certificate_.c_str()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("cannot use ", certificate_, ": ", OpensslError()));
  }
  if (SSL_CTX_use_PrivateKey_file(raw, key_.c_str(), SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(raw) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(key_, " is not the key of ", certificate_, ": ", OpensslError()));
  }
  if (!client_authority_.empty()) {
    if (SSL_CTX_load_verify_locations(raw, client_authority_.c_str(), nullptr) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("cannot use ", client_authority_, ": ", OpensslError()));
    }
    SSL_CTX_set_client_CA_list(raw, SSL_load_client_CA_file(client_authority_.c_str()));
    SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return context;
}

std::shared_ptr<ssl_ctx_st> HttpsContext::Current(MonotonicNs now) {
  if (now - looked_ns_ < kLookEveryNs) return current_;
  looked_ns_ = now;
  const auto change = NewestChange();
  if (change == read_change_) return current_;
  read_change_ = change;
  auto read = Read();
  if (read.ok()) {
    current_ = *std::move(read);
    LogInfo("certificate_reloaded", {{"file", certificate_}});
  } else {
    LogWarning("certificate_not_reloaded", {{"file", certificate_}, {"error", AsStd(read.status().message())}});
  }
  return current_;
}

}  // namespace pagoda::security
