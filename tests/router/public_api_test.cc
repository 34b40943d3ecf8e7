// Holds pagoda.v1 to its promise: names, numbers and types that were ever published stay. The
// snapshot tests/golden/public_api.json only grows: after adding to a public proto, run this test's
// binary with --update.
#include <gtest/gtest.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "pagoda/v1/admin.pb.h"
#include "pagoda/v1/inference.pb.h"
#include "pagoda/v1/sampling.pb.h"

namespace {

constexpr char kGolden[] = "tests/golden/public_api.json";

using nlohmann::json;
namespace pb = google::protobuf;

std::string TypeOf(const pb::FieldDescriptor& field) {
  if (field.message_type() != nullptr) return std::string(field.message_type()->full_name());
  if (field.enum_type() != nullptr) return std::string(field.enum_type()->full_name());
  return field.type_name();
}

// One flat map: what is published -> what it is.
void Describe(const pb::EnumDescriptor& type, json& out) {
  for (int i = 0; i < type.value_count(); ++i) {
    out[type.full_name() + "." + type.value(i)->name()] = type.value(i)->number();
  }
}

void Describe(const pb::Descriptor& message, json& out) {
  for (int i = 0; i < message.field_count(); ++i) {
    const pb::FieldDescriptor& field = *message.field(i);
    const char* label = field.is_repeated()    ? "repeated"
                        : field.has_presence() ? "optional"
                                               : "plain";
    const pb::OneofDescriptor* oneof = field.real_containing_oneof();
    out[field.full_name()] = {{"number", field.number()},
                              {"type", TypeOf(field)},
                              {"label", label},
                              {"oneof", oneof == nullptr ? "" : oneof->name()}};
  }
  for (int i = 0; i < message.nested_type_count(); ++i) Describe(*message.nested_type(i), out);
  for (int i = 0; i < message.enum_type_count(); ++i) Describe(*message.enum_type(i), out);
}

void Describe(const pb::FileDescriptor& file, json& out) {
  for (int i = 0; i < file.message_type_count(); ++i) Describe(*file.message_type(i), out);
  for (int i = 0; i < file.enum_type_count(); ++i) Describe(*file.enum_type(i), out);
  for (int s = 0; s < file.service_count(); ++s) {
    for (int m = 0; m < file.service(s)->method_count(); ++m) {
      const pb::MethodDescriptor& method = *file.service(s)->method(m);
      out[method.full_name()] = {{"input", method.input_type()->full_name()},
                                 {"output", method.output_type()->full_name()},
                                 {"client_streaming", method.client_streaming()},
                                 {"server_streaming", method.server_streaming()}};
    }
  }
}

json Current() {
  json out = json::object();
  Describe(*pagoda::v1::GenerateRequest::descriptor()->file(), out);
  Describe(*pagoda::v1::SamplingParams::descriptor()->file(), out);
  Describe(*pagoda::v1::DeploymentSpec::descriptor()->file(), out);
  return out;
}

TEST(PublicApiTest, WhatWasPublishedStays) {
  std::ifstream file(kGolden);
  ASSERT_TRUE(file) << kGolden << " is missing";
  const json golden = json::parse(file);
  const json current = Current();
  ASSERT_GT(golden.size(), 100u);
  for (const auto& [name, what] : golden.items()) {
    ASSERT_TRUE(current.contains(name)) << name << " was published and is gone";
    EXPECT_EQ(current[name], what) << name << " was published otherwise";
  }
  for (const auto& [name, what] : current.items()) {
    EXPECT_TRUE(golden.contains(name)) << name << " is new: run this test's binary with --update";
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--update") {
    std::ofstream(kGolden) << Current().dump(1) << "\n";
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
