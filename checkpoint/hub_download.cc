#include "checkpoint/hub_download.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/numbers.h"
#include "checkpoint/model_cache.h"
#include "checkpoint/sha256.h"

namespace pagoda::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxRedirects = 10;
constexpr int kMaxAttemptsInAll = 200;
constexpr int kMaxDelayMs = 30'000;
constexpr uint64_t kUnknown = ~uint64_t{0};

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

absl::Status StatusOfAnswer(const HttpHead& head, const Url& url, bool had_token) {
  const std::string where = absl::StrCat(url.Origin(), url.target.substr(0, url.target.find('?')));
  switch (head.status) {
    case 200:
    case 206:
      return absl::OkStatus();
    case 401:
      return absl::UnauthenticatedError(absl::StrCat(
          where, " answers 401: ",
          had_token
              ? "the token is not accepted, or the model does not exist"
              : "the model does not exist, or is private or gated and needs a token of the hub"));
    case 403:
      return absl::PermissionDeniedError(absl::StrCat(
          where,
          " answers 403: this token may not read the model; was its licence accepted on the hub?"));
    case 404:
      return absl::NotFoundError(
          absl::StrCat(where, " answers 404: there is no such model, revision or file"));
    case 416:
      return absl::AbortedError(absl::StrCat(where, " has nothing from there on"));
    default:
      break;
  }
  if (head.status >= 500 || head.status == 429 || head.status == 408) {
    return absl::UnavailableError(absl::StrCat(where, " answers ", head.status));
  }
  return absl::UnknownError(absl::StrCat(where, " answers ", head.status));
}

// An ETag without quotes; a weak one names no bytes.
std::string StrongTag(const std::string& tag) {
  if (tag.size() < 2 || tag.front() != '"' || tag.back() != '"') return "";
  return tag.substr(1, tag.size() - 2);
}

bool IsHex(const std::string& text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// What is known of a file that is half there, kept beside it.
struct PartState {
  std::string identity;  // the hub's tag: a hash of the content
  std::string tag;       // of the server that has the bytes: for If-Range
};

PartState ReadPartState(const std::string& path) {
  PartState state;
  std::ifstream file(path);
  std::getline(file, state.identity);
  std::getline(file, state.tag);
  return state;
}

// One attempt: appends to a part file or starts it again.
class Transfer {
 public:
  Transfer(std::string part, const std::function<void(uint64_t, uint64_t)>& progress)
      : part_(std::move(part)),
        state_path_(part_ + ".tag"),
        progress_(progress),
        state_(ReadPartState(state_path_)) {
    std::error_code error;
    const uint64_t size = fs::file_size(part_, error);
    if (!error && !state_.tag.empty()) begin_ = size;
  }
  ~Transfer() {
    if (file_ != nullptr) std::fclose(file_);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  uint64_t begin() const { return begin_; }
  const std::string& tag() const { return state_.tag; }
  const std::string& identity() const { return identity_; }
  bool progressed() const { return wrote_; }

  void Discard() {
    std::error_code error;
    fs::remove(part_, error);
    fs::remove(state_path_, error);
  }

  absl::Status OnHead(const HttpHead& head) {
    // The hub's own answer, which may be a redirect, says what the content is.
    if (identity_.empty()) identity_ = StrongTag(head.Header("x-linked-etag"));
    uint64_t size = 0;
    if (absl::SimpleAtoi(head.Header("x-linked-size"), &size)) linked_size_ = size;
    if (head.status != 200 && head.status != 206) return absl::OkStatus();
    const std::string tag = StrongTag(head.Header("etag"));
    if (identity_.empty()) identity_ = tag;
    if (head.status == 206) {
      PAGODA_RETURN_IF_ERROR(OnPartial(head));
    } else {
      begin_ = 0;
      total_ = absl::SimpleAtoi(head.Header("content-length"), &size) ? size : kUnknown;
    }
    if (linked_size_ != kUnknown) {
      if (total_ != kUnknown && total_ != linked_size_)
        return absl::DataLossError("the hub and its storage disagree about the file's size");
      total_ = linked_size_;
    }
    done_ = begin_;
    file_ = std::fopen(part_.c_str(), begin_ > 0 ? "abe" : "wbe");
    if (file_ == nullptr) return absl::UnavailableError(absl::StrCat("cannot write ", part_));
    return ReplaceFile(state_path_, identity_ + "\n" + tag + "\n");
  }

  absl::Status OnBody(std::span<const std::byte> bytes) {
    if (bytes.size() > total_ - done_)
      return absl::DataLossError("the server sends more than the file's size");
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot write ", part_, "; is the disk full?"));
    }
    done_ += bytes.size();
    wrote_ = wrote_ || !bytes.empty();
    if (progress_) progress_(done_, total_ == kUnknown ? 0 : total_);
    return absl::OkStatus();
  }

  absl::Status Finish(const std::string& path) {
    if (file_ == nullptr) return absl::UnavailableError("the server sent nothing");
    const bool synced =
        std::fflush(file_) == 0 && fsync(fileno(file_)) == 0;  // before the rename says it is whole
    const bool closed = std::fclose(file_) == 0 && synced;
    file_ = nullptr;
    if (!closed)
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot write ", part_, "; is the disk full?"));
    if (total_ != kUnknown && done_ != total_)
      return absl::UnavailableError("the connection ended early");
    PAGODA_RETURN_IF_ERROR(Verify());
    std::error_code error;
    fs::rename(part_, path, error);
    if (error)
      return absl::UnavailableError(absl::StrCat("cannot rename ", part_, ": ", error.message()));
    fs::remove(state_path_, error);
    return absl::OkStatus();
  }

 private:
  absl::Status OnPartial(const HttpHead& head) {
    // bytes 100-199/200
    const std::string range = head.Header("content-range");
    uint64_t first = 0;
    uint64_t total = 0;
    const size_t dash = range.find('-');
    const size_t slash = range.find('/');
    const bool parsed = range.starts_with("bytes ") && dash != std::string::npos &&
                        slash != std::string::npos &&
                        absl::SimpleAtoi(range.substr(6, dash - 6), &first) &&
                        absl::SimpleAtoi(range.substr(slash + 1), &total);
    if (!parsed || first != begin_ || total < begin_ || identity_ != state_.identity) {
      return absl::AbortedError("the file changed while it was downloaded");
    }
    total_ = total;
    return absl::OkStatus();
  }

  absl::Status Verify() {
    std::string actual;
    if (IsHex(identity_, 64)) {
      PAGODA_ASSIGN_OR_RETURN(actual, Sha256OfFile(part_));
    } else if (IsHex(identity_, 40)) {
      PAGODA_ASSIGN_OR_RETURN(actual, GitBlobIdOfFile(part_));
    } else {
      return absl::OkStatus();  // not a hash that we know
    }
    if (actual == identity_) return absl::OkStatus();
    Discard();
    return absl::DataLossError(
        absl::StrCat("the bytes hash to ", actual, ", the hub announced ", identity_));
  }

  const std::string part_;
  const std::string state_path_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  PartState state_;
  std::string identity_;
  uint64_t begin_ = 0;
  uint64_t done_ = 0;
  uint64_t total_ = kUnknown;
  uint64_t linked_size_ = kUnknown;
  std::FILE* file_ = nullptr;
  bool wrote_ = false;
};

}  // namespace

absl::StatusOr<HubClient> HubClient::Make(const PullOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(Url origin, ParseUrl(options.hub_endpoint));
  if (options.token.find_first_of("\r\n") != std::string::npos) {
    return absl::InvalidArgumentError("the hub's token has a line break in it");
  }
  return HubClient(options, std::move(origin));
}

absl::Status HubClient::Get(const std::string& target, const Headers& headers,
                            const HttpHeadHandler& on_head, const HttpBodyHandler& on_body) const {
  Url url = origin_;
  url.target = (url.target == "/" ? "" : url.target) + target;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    const bool own = url.Origin() == origin_.Origin();
    HttpRequest request{.url = url,
                        .headers = headers,
                        .timeout_ms = options_.timeout_ms,
                        .ca_file = options_.ca_file};
    if (own && !options_.token.empty())
      request.headers.emplace_back("Authorization", "Bearer " + options_.token);
    const auto checked = [&](const HttpHead& head) -> absl::Status {
      if (!IsRedirect(head.status))
        PAGODA_RETURN_IF_ERROR(StatusOfAnswer(head, url, !options_.token.empty()));
      return on_head(head);
    };
    PAGODA_ASSIGN_OR_RETURN(const HttpHead head, HttpGet(request, checked, on_body));
    if (!IsRedirect(head.status)) return absl::OkStatus();
    PAGODA_ASSIGN_OR_RETURN(url, ResolveLocation(url, head.Header("location")));
  }
  return absl::UnavailableError(
      absl::StrCat(origin_.Origin(), target, " redirects more than ", kMaxRedirects, " times"));
}

absl::Status HubClient::WithRetries(
    const std::function<absl::Status(bool& progressed)>& attempt) const {
  int failures = 0;
  absl::Status status;
  for (int i = 0; i < kMaxAttemptsInAll; ++i) {
    bool progressed = false;
    status = attempt(progressed);
    if (!absl::IsUnavailable(status) && !absl::IsAborted(status)) return status;
    failures = progressed ? 1 : failures + 1;
    if (failures >= options_.attempts) break;
    const int delay_ms = std::min<int64_t>(
        kMaxDelayMs, int64_t{options_.retry_delay_ms} << std::min(failures - 1, 10));
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
  }
  return absl::UnavailableError(absl::StrCat("given up after ", failures,
                                             " attempts that brought nothing: ", status.message()));
}

absl::StatusOr<std::string> HubClient::GetText(const std::string& target, size_t limit) const {
  std::string text;
  const absl::Status status = WithRetries([&](bool&) {
    text.clear();
    return Get(
        target, {}, [](const HttpHead&) { return absl::OkStatus(); },
        [&](std::span<const std::byte> bytes) -> absl::Status {
          if (text.size() + bytes.size() > limit)
            return absl::InvalidArgumentError("the hub's answer is too long");
          text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          return absl::OkStatus();
        });
  });
  if (!status.ok()) return status;
  return text;
}

absl::Status HubClient::Download(const std::string& target, const std::string& path,
                                 const std::function<void(uint64_t, uint64_t)>& progress) const {
  return WithRetries([&](bool& progressed) -> absl::Status {
    Transfer transfer(path + ".part", progress);
    Headers headers;
    if (transfer.begin() > 0) {
      headers = {{"Range", absl::StrCat("bytes=", transfer.begin(), "-")},
                 {"If-Range", "\"" + transfer.tag() + "\""}};
    }
    absl::Status status = Get(
        target, headers, [&](const HttpHead& head) { return transfer.OnHead(head); },
        [&](std::span<const std::byte> bytes) { return transfer.OnBody(bytes); });
    if (status.ok()) status = transfer.Finish(path);
    progressed = transfer.progressed();
    if (absl::IsAborted(status)) transfer.Discard();
    return status;
  });
}

}  // namespace pagoda::checkpoint
