#include "security/tls_session.h"

#include <algorithm>
#include <climits>

#include "common/status.h"
#include "security/openssl_handles.h"

namespace pagoda::security {

TlsSession::TlsSession(const std::shared_ptr<ssl_ctx_st>& context)
    : context_(context), session_(SSL_new(context.get())), in_(BIO_new(BIO_s_mem())), out_(BIO_new(BIO_s_mem())) {
  PAGODA_CHECK(session_ != nullptr && in_ != nullptr && out_ != nullptr, "no memory for a TLS session");
  BIO_set_mem_eof_return(in_, -1);
  SSL_set_bio(session_, in_, out_);
  SSL_set_accept_state(session_);
}

TlsSession::~TlsSession() { SSL_free(session_); }

bool TlsSession::established() const { return SSL_is_init_finished(session_) == 1; }

void TlsSession::TakeOutput(std::string& wire) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(out_, &data);
  if (size > 0) wire.append(data, static_cast<size_t>(size));
  (void)BIO_reset(out_);
}

TlsSession::State TlsSession::Receive(std::string_view bytes, std::string& plain, std::string& wire) {
  ERR_clear_error();
  for (size_t at = 0; at < bytes.size();) {
    const int taken = BIO_write(in_, bytes.data() + at, static_cast<int>(std::min<size_t>(bytes.size() - at, INT_MAX)));
    PAGODA_CHECK(taken > 0, "no memory for what a client sent");
    at += static_cast<size_t>(taken);
  }
  State state = State::kOpen;
  char piece[16384];
  while (true) {
    const int count = SSL_read(session_, piece, sizeof(piece));
    if (count > 0) {
      plain.append(piece, static_cast<size_t>(count));
      continue;
    }
    const int why = SSL_get_error(session_, count);
    if (why == SSL_ERROR_ZERO_RETURN) {
      state = State::kClosed;
    } else if (why != SSL_ERROR_WANT_READ) {
      error_ = OpensslError();
      state = State::kBroken;
    }
    break;
  }
  TakeOutput(wire);  // an alert too
  return state;
}

void TlsSession::Send(std::string_view plain, std::string& wire) {
  ERR_clear_error();
  while (!plain.empty()) {
    const int count = SSL_write(session_, plain.data(), static_cast<int>(std::min<size_t>(plain.size(), 1 << 30)));
    if (count <= 0) break;  // closed or broken: the socket's end tells
    plain.remove_prefix(static_cast<size_t>(count));
  }
  TakeOutput(wire);
}

void TlsSession::Close(std::string& wire) {
  ERR_clear_error();
  if (established()) SSL_shutdown(session_);
  TakeOutput(wire);
}

}  // namespace pagoda::security
