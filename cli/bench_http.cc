// The load over HTTP: /v1/completions with token ids, answers as server-sent events. One Asio thread, a coroutine for each
// request, connections kept alive and used again.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/bench_load.h"
#include "cli/http_client.h"
#include "cli/json_text.h"
#include "cli/tls_stream.h"

namespace pagoda::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Written by hand: building and printing a JSON tree per request would be most of this client's work.
std::string BodyOf(const BenchOptions& options, const PlannedRequest& request) {
  std::string body = absl::StrCat("{\"model\":", nlohmann::json(options.model).dump(), ",\"prompt\":");
  if (options.prompt_text.empty()) {
    for (size_t i = 0; i < request.prompt.size(); ++i) absl::StrAppend(&body, i > 0 ? "," : "[", request.prompt[i]);
    body += "]";
  } else {
    body += nlohmann::json(options.prompt_text).dump();
  }
  if (options.speculative_tokens >= 0) absl::StrAppend(&body, ",\"num_speculative_tokens\":", options.speculative_tokens);
  if (options.top_p < 1) absl::StrAppend(&body, ",\"top_p\":", options.top_p);
  if (options.top_k > 0) absl::StrAppend(&body, ",\"top_k\":", options.top_k);
  absl::StrAppend(&body, ",\"max_tokens\":", request.output_tokens, ",\"temperature\":", options.temperature,
                  ",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"ignore_eos\":",
                  options.stop_at_eos ? "false" : "true", "}");
  return body;
}

// What the report counts refusals by: the code, and what the server says unless it says something else each time.
std::string RefusalText(unsigned code, const std::string& body) {
  const std::string said = TextAt(nlohmann::json::parse(body, nullptr, false), "/error/message");
  const bool same = code != 429 && code != 503 && code != 504 && !said.empty();  // those tell a time, another one each
  return same ? absl::StrCat("HTTP ", code, ": ", said.substr(0, 300)) : absl::StrCat("HTTP ", code);
}

// One answer as it comes in.
class Answer {
 public:
  Answer(RequestRecord& record, Clock::time_point begin, int cancel_after)
      : record_(record), begin_(begin), cancel_after_(cancel_after) {}

  void OnEvent(std::string_view data) {
    if (data == "[DONE]") {
      done_ = true;
    } else if (data.find("\"choices\":[]") != std::string_view::npos) {
      OnUsage(data);
    } else if (data.starts_with("{\"error\"")) {
      record_.error = "error in the stream";
    } else if (data.find("\"text\":\"\"") == std::string_view::npos || data.find("\"finish_reason\":null") != std::string_view::npos) {
      OnPiece();
    }
  }
  bool done() const { return done_; }
  bool cancelled() const { return cancel_after_ > 0 && pieces_ >= cancel_after_; }
  // Tokens are counted by the server; a request that was cut has only its pieces.
  void Settle() {
    if (record_.output_tokens == 0) record_.output_tokens = pieces_;
  }

 private:
  void OnPiece() {
    const double now_s = Seconds(Clock::now() - begin_);
    if (pieces_++ == 0) {
      record_.first_token_s = now_s;
    } else {
      record_.gaps_s.push_back(static_cast<float>(now_s - last_s_));
    }
    last_s_ = now_s;
  }
  void OnUsage(std::string_view data) {
    const nlohmann::json event = nlohmann::json::parse(data, nullptr, false);
    record_.output_tokens = IntegerAt(event, "/usage/completion_tokens", 0);
    record_.prompt_tokens = IntegerAt(event, "/usage/prompt_tokens", record_.prompt_tokens);
  }

  RequestRecord& record_;
  const Clock::time_point begin_;
  const int cancel_after_;
  int pieces_ = 0;
  double last_s_ = 0;
  bool done_ = false;
};

class HttpLoad {
 public:
  HttpLoad(const BenchOptions& options, const std::vector<PlannedRequest>& plan, HostPort server)
      : options_(options), plan_(plan), server_(std::move(server)), slot_freed_(context_), records_(plan.size()) {}

  absl::StatusOr<std::vector<RequestRecord>> Run() {
    absl::Status status;
    asio::co_spawn(context_, LaunchAll(), [&](std::exception_ptr error) {
      try {
        if (error) std::rethrow_exception(error);
      } catch (const std::exception& problem) {
        status = absl::UnavailableError(absl::StrCat(server_.ToString(), ": ", problem.what()));
      }
    });
    context_.run();
    PAGODA_RETURN_IF_ERROR(status);
    return std::move(records_);
  }

 private:
  asio::awaitable<void> LaunchAll() {
    Tcp::resolver resolver(context_);
    const auto found = co_await resolver.async_resolve(server_.host, std::to_string(server_.port), asio::use_awaitable);
    addresses_.assign(found.begin(), found.end());
    begin_ = Clock::now();
    const bool open_loop = options_.request_rate > 0;
    asio::steady_timer timer(context_);
    for (size_t i = 0; i < plan_.size(); ++i) {
      timer.expires_at(begin_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(plan_[i].start_s)));
      if (open_loop) co_await timer.async_wait(asio::use_awaitable);
      while (active_ >= MostAtOnce(options_)) {
        boost::system::error_code ignored;  // cancelled: how the timer tells that a slot is free
        slot_freed_.expires_at(Clock::time_point::max());
        co_await slot_freed_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      }
      ++active_;
      records_[i].start_s = open_loop ? plan_[i].start_s : Seconds(Clock::now() - begin_);
      asio::co_spawn(context_, RunOne(i), asio::detached);
    }
  }

  asio::awaitable<void> RunOne(size_t index) {
    RequestRecord& record = records_[index];
    try {
      co_await Exchange(plan_[index], record);
    } catch (const boost::system::system_error& problem) {
      if (record.error.empty()) record.error = problem.code().message();
    } catch (const std::exception& problem) {
      record.error = problem.what();
    }
    record.end_s = Seconds(Clock::now() - begin_);
    --active_;
    slot_freed_.cancel();
  }

  asio::awaitable<void> Send(const std::string& body, std::unique_ptr<TlsStream>& stream) {
    http::request<http::string_body> message(http::verb::post, "/v1/completions", 11);
    message.set(http::field::host, server_.ToString());
    message.set(http::field::content_type, "application/json");
    if (!options_.api_key.empty()) message.set(http::field::authorization, "Bearer " + options_.api_key);
    if (options_.deadline_ms > 0) message.set("Pagoda-Deadline-Ms", std::to_string(options_.deadline_ms));
    message.body() = body;
    message.prepare_payload();
    if (!idle_.empty()) {
      stream = std::move(idle_.back());
      idle_.pop_back();
    } else {
      stream = std::make_unique<TlsStream>(context_, tls_);
      beast::tcp_stream& lowest = stream->next_layer();
      lowest.expires_after(std::chrono::milliseconds(options_.timeout_ms));
      co_await lowest.async_connect(addresses_, asio::use_awaitable);
      lowest.socket().set_option(Tcp::no_delay(true));
      if (https_) {
        VerifyHost(*stream, options_.server_name.empty() ? server_.host : options_.server_name);
        co_await stream->async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
      }
    }
    stream->next_layer().expires_after(std::chrono::milliseconds(options_.timeout_ms));
    if (https_) {
      co_await http::async_write(*stream, message, asio::use_awaitable);
    } else {
      co_await http::async_write(stream->next_layer(), message, asio::use_awaitable);
    }
  }

  asio::awaitable<void> Exchange(const PlannedRequest& request, RequestRecord& record) {
    record.prompt_tokens = static_cast<int>(request.prompt.size());
    std::unique_ptr<TlsStream> stream;
    co_await Send(BodyOf(options_, request), stream);
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(std::numeric_limits<uint64_t>::max());
    if (https_) {
      co_await http::async_read_header(*stream, buffer, parser, asio::use_awaitable);
    } else {
      co_await http::async_read_header(stream->next_layer(), buffer, parser, asio::use_awaitable);
    }
    if (parser.get().result_int() != 200) {
      http::response_parser<http::string_body> refusal(std::move(parser));
      refusal.body_limit(1 << 20);
      if (https_) {
        co_await http::async_read(*stream, buffer, refusal, asio::use_awaitable);
      } else {
        co_await http::async_read(stream->next_layer(), buffer, refusal, asio::use_awaitable);
      }
      record.error = RefusalText(refusal.get().result_int(), refusal.get().body());
      if (refusal.get().keep_alive()) idle_.push_back(std::move(stream));
      co_return;
    }
    Answer answer(record, begin_, request.cancel_after);
    SseSplitter events([&](std::string_view data) { answer.OnEvent(data); });
    char piece[8192];
    while (!parser.is_done() && !answer.cancelled()) {
      parser.get().body().data = piece;
      parser.get().body().size = sizeof(piece);
      boost::system::error_code error;
      if (https_) {
        co_await http::async_read_some(*stream, buffer, parser, asio::redirect_error(asio::use_awaitable, error));
      } else {
        co_await http::async_read_some(stream->next_layer(), buffer, parser,
                                       asio::redirect_error(asio::use_awaitable, error));
      }
      if (error && error != http::error::need_buffer) throw boost::system::system_error(error);
      events.Feed({piece, sizeof(piece) - parser.get().body().size});
    }
    answer.Settle();
    record.cancelled = !answer.done() && answer.cancelled();
    if (parser.is_done() && !answer.done() && record.error.empty()) record.error = "the stream ended without [DONE]";
    if (parser.is_done() && parser.get().keep_alive()) idle_.push_back(std::move(stream));
  }

  const BenchOptions& options_;
  const std::vector<PlannedRequest>& plan_;
  const HostPort server_;
  const bool https_ = options_.url.starts_with("https://");
  asio::ssl::context tls_ = TlsContext(AuthorityFor(options_.url, options_.authority));
  asio::io_context context_{1};
  asio::steady_timer slot_freed_;
  std::vector<Tcp::endpoint> addresses_;
  std::vector<std::unique_ptr<TlsStream>> idle_;
  std::vector<RequestRecord> records_;
  Clock::time_point begin_;
  int active_ = 0;
};

}  // namespace

absl::StatusOr<std::string> FirstModelOverHttp(const BenchOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(HostPort server, ParseServer(options.url));
  HttpRequest request{.server = std::move(server),
                      .target = "/v1/models",
                      .authority = AuthorityFor(options.url, options.authority),
                      .server_name = options.server_name};
  if (!options.api_key.empty()) request.headers["Authorization"] = "Bearer " + options.api_key;
  PAGODA_ASSIGN_OR_RETURN(const HttpResponse response, HttpCall(request));
  const std::string model = TextAt(nlohmann::json::parse(response.body, nullptr, false), "/data/0/id");
  if (response.status != 200 || model.empty()) {
    return absl::NotFoundError(absl::StrCat(options.url, " serves no model (", response.status, ")"));
  }
  return model;
}

absl::StatusOr<std::vector<RequestRecord>> LoadOverHttp(const BenchOptions& options,
                                                        const std::vector<PlannedRequest>& plan) {
  PAGODA_ASSIGN_OR_RETURN(HostPort server, ParseServer(options.url));
  return HttpLoad(options, plan, std::move(server)).Run();
}

}  // namespace pagoda::cli
