#include "router/openai/json_input.h"

#include <algorithm>
#include <cmath>

#include "common/limits.h"
#include "router/request_status.h"

namespace pagoda::router::openai {
namespace {

constexpr size_t kMaxValues = 2u << 20;  // a prompt of token ids may have 2^20

// Builds the document. Objects are vectors of pairs: appending without a look-up keeps a hostile
// object of a million keys linear, and duplicates are found by one sort at its end.
class Builder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t value) override { return Put(value); }
  bool number_unsigned(number_unsigned_t value) override { return Put(value); }
  bool number_float(number_float_t value, const string_t&) override { return Put(value); }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary values are not taken"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool key(string_t& name) override {
    auto& object = stack_.back()->get_ref<Json::object_t&>();
    object.std::vector<std::pair<const std::string, Json>>::emplace_back(std::move(name), nullptr);
    return true;
  }
  bool end_object() override {
    const auto& object = stack_.back()->get_ref<const Json::object_t&>();
    std::vector<std::string_view> names;
    names.reserve(object.size());
    for (const auto& [name, value] : object) names.push_back(name);
    std::ranges::sort(names);
    const auto twice = std::ranges::adjacent_find(names);
    if (twice != names.end()) return Fail("a key is given twice in one object");
    stack_.pop_back();
    return true;
  }
  bool end_array() override {
    stack_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // What the library says, without its error number and position prefix; the offending bytes may
    // not be UTF-8.
    std::string message = error.what();
    const size_t colon = message.rfind("- ");
    if (colon != std::string::npos) message.erase(0, colon + 2);
    error_ = absl::StrCat("not valid JSON at byte ", position, ": ", message.substr(0, 200));
    return false;
  }

  Json root_;
  std::string error_;

 private:
  bool Fail(const char* message) {
    error_ = message;
    return false;
  }
  Json* Place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      auto& array = parent.get_ref<Json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    auto& last = parent.get_ref<Json::object_t&>().back().second;
    last = std::move(value);
    return &last;
  }
  bool Put(Json value) {
    if (++values_ > kMaxValues) return Fail("the JSON document has too many values");
    Place(std::move(value));
    return true;
  }
  bool Open(Json value) {
    if (++values_ > kMaxValues) return Fail("the JSON document has too many values");
    if (stack_.size() >= static_cast<size_t>(limits::kMaxJsonDepth)) {
      error_ = absl::StrCat("the JSON document is nested deeper than the limit of ",
                            limits::kMaxJsonDepth);
      return false;
    }
    stack_.push_back(Place(std::move(value)));
    return true;
  }

  std::vector<Json*> stack_;  // open containers; a parent does not grow while its child is open
  size_t values_ = 0;
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text) {
  Builder builder;
  try {
    if (Json::sax_parse(text.begin(), text.end(), &builder)) return std::move(builder.root_);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("the body is not valid JSON: ", error.what()));
  }
  return absl::InvalidArgumentError(absl::StrCat("the body is refused: ", builder.error_));
}

const Json* Fields::Find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void Fields::Fail(const char* name, std::string_view message) {
  if (status_.ok()) status_ = InvalidField(name, message);
}

bool Fields::Bool(const char* name, bool fallback) { return OptionalBool(name).value_or(fallback); }

std::optional<bool> Fields::OptionalBool(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    Fail(name, "must be true or false");
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<int64_t> IntegerOf(const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    return std::nullopt;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double real = value.get<double>();
  if (!(std::fabs(real) <= 9007199254740992.0) || real != std::floor(real)) return std::nullopt;
  return static_cast<int64_t>(real);
}

std::optional<int64_t> Fields::Integer(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> integer = IntegerOf(*value);
  if (!integer) Fail(name, value->is_number() ? "must be a whole number of 64 bits with a sign" : "must be an integer");
  return integer;
}

std::optional<double> Fields::Real(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    Fail(name, "must be a number");
    return std::nullopt;
  }
  return value->get<double>();
}

std::string Fields::String(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return "";
  if (!value->is_string()) {
    Fail(name, "must be a string");
    return "";
  }
  return value->get<std::string>();
}

std::vector<std::string> Fields::StringOrList(const char* name, size_t limit) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> list;
  if (!value->is_array()) {
    Fail(name, "must be a string or a list of strings");
    return {};
  }
  if (value->size() > limit) {
    Fail(name, absl::StrCat("has ", value->size(), " entries; the limit is ", limit));
    return {};
  }
  for (const Json& entry : *value) {
    if (!entry.is_string()) {
      Fail(name, "must be a string or a list of strings");
      return {};
    }
    list.push_back(entry.get<std::string>());
  }
  return list;
}

std::vector<int64_t> Fields::IntegerList(const char* name, size_t limit) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  if (!value->is_array()) {
    Fail(name, "must be a list of integers");
    return {};
  }
  if (value->size() > limit) {
    Fail(name, absl::StrCat("has ", value->size(), " entries; the limit is ", limit));
    return {};
  }
  std::vector<int64_t> list;
  list.reserve(value->size());
  for (const Json& entry : *value) {
    const std::optional<int64_t> integer = IntegerOf(entry);
    if (!integer) {
      Fail(name, "must be a list of integers");
      return {};
    }
    list.push_back(*integer);
  }
  return list;
}

}  // namespace pagoda::router::openai
