#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <cstdint>
#include <utility>

#include "text/unicode_additions.h"

namespace pagoda::text {
namespace {

// A pathological pattern is given up after this many steps at one position; a sane one takes a few per character.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

constexpr std::string_view kSpaceRanges =
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";

void AppendHex(char32_t code_point, std::string* out) {
  absl::StrAppend(out, "\\x{", absl::Hex(static_cast<uint32_t>(code_point)), "}");
}

// The ranges that Unicode 15 and 16 added to general category `name` ("L", "Lu"); empty for other properties.
std::string AddedRanges(std::string_view name) {
  std::string out;
  if (name.empty() || name.size() > 2) return out;
  for (const CategoryRange& range : AddedCategories()) {
    if (std::string_view(range.category).substr(0, name.size()) != name) continue;
    AppendHex(range.first, &out);
    if (range.last != range.first) {
      out += '-';
      AppendHex(range.last, &out);
    }
  }
  return out;
}

// What Oniguruma takes for \\w: outside of a class a few numbers of Latin-1 too, and letters in circles and squares.
std::string WordMembers(bool in_class) {
  std::string out = in_class ? "" : "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
  out +=
      "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}"
      "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
  for (const char* name : {"L", "M", "Nd", "Nl", "Pc"}) out += AddedRanges(name);
  return out;
}

// Walks a pattern and copies it with the escapes replaced.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string Run() {
    while (position_ < pattern_.size()) {
      const char c = pattern_[position_];
      if (c == '\\') {
        Escape();
        continue;
      }
      if (in_class_ && c == '[' && !At("[:")) {
        out_ += "\\[";  // Oniguruma would nest a set; none of the patterns in use does
        ++position_;
        continue;
      }
      if (in_class_ && At("[:")) {
        CopyPosixClass();
        continue;
      }
      if (c == '[' && !in_class_) {
        OpenClass();
        continue;
      }
      if (c == ']' && in_class_) in_class_ = false;
      out_ += c;
      ++position_;
    }
    return std::move(out_);
  }

 private:
  bool At(std::string_view text) const { return pattern_.substr(position_, text.size()) == text; }

  void OpenClass() {
    in_class_ = true;
    out_ += '[';
    ++position_;
    if (At("^")) {
      out_ += '^';
      ++position_;
    }
    if (At("]")) {  // a literal at the first place
      out_ += "\\]";
      ++position_;
    }
  }

  void CopyPosixClass() {
    const size_t end = pattern_.find(":]", position_);
    const size_t stop = end == std::string_view::npos ? pattern_.size() : end + 2;
    out_.append(pattern_.substr(position_, stop - position_));
    position_ = stop;
  }

  void Escape() {
    const char kind = position_ + 1 < pattern_.size() ? pattern_[position_ + 1] : '\0';
    if (kind == 's') return Replace(2, kSpaceRanges, false);
    if (kind == 'S' && !in_class_) return Replace(2, kSpaceRanges, true);
    if (kind == 'S') {
      // The complement of kSpaceRanges, spelled out because a class cannot hold a negated class.
      out_ +=
          "\\x{0}-\\x{08}\\x{0e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-"
          "\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
          "\\x{3001}-\\x{10ffff}";
      position_ += 2;
      return;
    }
    if (kind == 'd' || kind == 'D') {
      const std::string ranges = (kind == 'd' || !in_class_) ? AddedRanges("Nd") : "";
      return Replace(2, absl::StrCat("\\p{Nd}", ranges), kind == 'D');
    }
    if (kind == 'w' || (kind == 'W' && !in_class_)) return Replace(2, WordMembers(in_class_), kind == 'W');
    if ((kind == 'p' || kind == 'P') && position_ + 2 < pattern_.size()) return Property(kind);
    out_.append(pattern_.substr(position_, 2));
    position_ += 2;
  }

  void Property(char kind) {
    const bool braced = pattern_[position_ + 2] == '{';
    const size_t close = braced ? pattern_.find('}', position_) : position_ + 2;
    if (close == std::string_view::npos) {
      out_.append(pattern_.substr(position_, 2));
      position_ += 2;
      return;
    }
    std::string_view name = braced ? pattern_.substr(position_ + 3, close - position_ - 3)
                                   : pattern_.substr(position_ + 2, 1);
    bool negated = kind == 'P';
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    const size_t length = close + 1 - position_;
    const std::string added = AddedRanges(name);
    if (negated && in_class_) {
      absl::StrAppend(&out_, "\\P{", AsAbsl(name), "}");
      position_ += length;
      return;
    }
    Replace(length, absl::StrCat("\\p{", AsAbsl(name), "}", added), negated);
  }

  // Puts `members` (the inside of a class) for the next `length` bytes of the pattern.
  void Replace(size_t length, std::string_view members, bool negated) {
    position_ += length;
    if (in_class_) {
      out_.append(members);
      return;
    }
    absl::StrAppend(&out_, negated ? "[^" : "[", AsAbsl(members), "]");
  }

  std::string_view pattern_;
  size_t position_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

std::string TranslateRegex(std::string_view pattern) { return Translator(pattern).Run(); }

std::string EscapeRegex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-# \t\n\r/").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

absl::StatusOr<std::shared_ptr<const Regex>> Regex::Compile(std::string_view pattern) {
  const std::string translated = TranslateRegex(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                   nullptr);
  if (code == nullptr) {
    char message[256];
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("the tokenizer's pattern \"", AsAbsl(pattern),
                                                   "\" does not compile: ", message, " near byte ",
                                                   offset, " of its translation"));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT the interpreter matches
  return std::shared_ptr<const Regex>(new Regex(code));
}

Regex::~Regex() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

RegexMatcher::RegexMatcher(const Regex& regex)
    : code_(regex.code_),
      data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  auto* context = static_cast<pcre2_match_context*>(context_);
  pcre2_set_match_limit(context, kMatchLimit);
  pcre2_set_heap_limit(context, kHeapLimitKib);
}

RegexMatcher::RegexMatcher(RegexMatcher&& other) noexcept
    : code_(other.code_),
      data_(std::exchange(other.data_, nullptr)),
      context_(std::exchange(other.context_, nullptr)) {}

RegexMatcher::~RegexMatcher() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(data_));
  pcre2_match_context_free(static_cast<pcre2_match_context*>(context_));
}

RegexMatcher::Match RegexMatcher::Find(std::string_view subject, size_t start) {
  const auto* code = static_cast<const pcre2_code*>(code_);
  auto* data = static_cast<pcre2_match_data*>(data_);
  auto* context = static_cast<pcre2_match_context*>(context_);
  const auto* bytes = reinterpret_cast<PCRE2_SPTR>(subject.data());
  int rc = pcre2_match(code, bytes, subject.size(), start, PCRE2_NO_UTF_CHECK, data, context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    rc = pcre2_match(code, bytes, subject.size(), start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                     context);
  }
  if (rc < 0) return {};
  const PCRE2_SIZE* pair = pcre2_get_ovector_pointer(data);
  // \K can put the end before the beginning; such a match is none.
  if (pair[1] < pair[0] || pair[0] < start) return {};
  return {true, pair[0], pair[1]};
}

}  // namespace pagoda::text
