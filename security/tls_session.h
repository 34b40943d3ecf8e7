// TLS of one server connection as a transformation of bytes: what came from the socket goes in, what the client said comes
// out, and the other way round. Holds no socket and waits for nothing. Thread rule: one thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct ssl_ctx_st;
struct ssl_st;
struct bio_st;

namespace pagoda::security {

class TlsSession {
 public:
  explicit TlsSession(const std::shared_ptr<ssl_ctx_st>& context);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  enum class State { kOpen, kClosed, kBroken };  // kClosed: the client said goodbye
  // Takes bytes off the wire; appends what they say to `plain` and what has to be answered to `wire`.
  State Receive(std::string_view bytes, std::string& plain, std::string& wire);
  // Appends the record(s) of `plain` to `wire`. Requires established().
  void Send(std::string_view plain, std::string& wire);
  // Says goodbye.
  void Close(std::string& wire);
  bool established() const;
  // Why it is broken, for the log at level debug: clients of any kind come by.
  const std::string& error() const { return error_; }

 private:
  void TakeOutput(std::string& wire);

  const std::shared_ptr<ssl_ctx_st> context_;
  ssl_st* const session_;
  bio_st* in_ = nullptr;   // the session's
  bio_st* out_ = nullptr;  // the session's
  std::string error_;
};

}  // namespace pagoda::security
