#include "security/key_ring.h"

#include <gtest/gtest.h>

#include "absl/strings/escaping.h"

namespace pagoda::security {
namespace {

TEST(KeyRingTest, AMadeKeyIsFoundInWhatWasWritten) {
  NewKey one = MakeKey();
  one.key.tenant = "acme: the company";
  one.key.scopes = {Scope::kInference, Scope::kMetrics};
  one.key.models = {"small", "a/b"};
  one.key.requests_per_minute = 60;
  one.key.weight = 2.5;
  one.key.tokens_per_minute = 1000;
  NewKey two = MakeKey();
  two.key.tenant = "other";
  two.key.scopes = {Scope::kAdmin};
  const std::string text = KeyRing::ToText({one.key, two.key});
  EXPECT_EQ(text.find(one.secret), std::string::npos) << "the file holds hashes only";
  EXPECT_EQ(text.find(one.secret.substr(one.secret.rfind('-') + 1)), std::string::npos);
  const auto ring = KeyRing::Parse(text, "keys.yaml");
  ASSERT_TRUE(ring.ok()) << ring.status();
  const auto found = ring->Find(one.secret);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->id, one.key.id);
  EXPECT_EQ(found->tenant, "acme: the company");
  EXPECT_EQ(found->requests_per_minute, 60);
  EXPECT_EQ(found->weight, 2.5);
  EXPECT_EQ(found->tokens_per_minute, 1000);
  EXPECT_TRUE(found->Has(Scope::kMetrics));
  EXPECT_FALSE(found->Has(Scope::kAdmin));
  EXPECT_TRUE(found->MayUse("a/b"));
  EXPECT_FALSE(found->MayUse("large"));
  EXPECT_TRUE(ring->Find(two.secret)->MayUse("large"));
}

TEST(KeyRingTest, NothingElseIsFound) {
  NewKey made = MakeKey();
  made.key.tenant = "t";
  made.key.scopes = {Scope::kInference};
  const auto ring = KeyRing::Parse(KeyRing::ToText({made.key}), "keys.yaml");
  ASSERT_TRUE(ring.ok()) << ring.status();
  for (std::string wrong : {std::string(), made.key.id, made.secret.substr(1), made.secret + " ", made.secret + '\0',
                            std::string(made.key.sha256.begin(), made.key.sha256.end())}) {
    EXPECT_EQ(ring->Find(wrong), nullptr);
  }
  std::string changed = made.secret;
  changed.back() = changed.back() == 'a' ? 'b' : 'a';
  EXPECT_EQ(ring->Find(changed), nullptr);
  EXPECT_NE(ring->Find(made.secret), nullptr);
  EXPECT_EQ(KeyRing::Parse("", "f")->Find(""), nullptr);
}

TEST(KeyRingTest, KeysAreLongAndDifferent) {
  const NewKey a = MakeKey(), b = MakeKey();
  EXPECT_NE(a.secret, b.secret);
  EXPECT_EQ(a.secret.size(), std::string("sk-pagoda-").size() + 8 + 1 + 64);
}

TEST(KeyRingTest, ErrorsNameTheLine) {
  const std::string good = "  - id: a\n    tenant: t\n    sha256: " + std::string(64, '0') + "\n";
  const struct {
    std::string text;
    std::string message;
  } cases[] = {
      {"keys:\n" + good + "    colour: red\n", "keys.yaml:5: 'colour'"},
      {"keys:\n" + good + "    scopes: [root]\n", "keys.yaml:5: 'root'"},
      {"keys:\n" + good + "    requests_per_minute: many\n", "keys.yaml:5: 'requests_per_minute'"},
      {"keys:\n" + good + "    weight: 0\n", "keys.yaml:5: 'weight' must be a number from 0.01 to 100"},
      {"keys:\n" + good + "    tokens_per_minute: -1\n", "keys.yaml:5: 'tokens_per_minute'"},
      {"keys:\n" + good + "    models: []\n", "keys.yaml:5: 'models'"},
      {"keys:\n" + good + "    id: b\n", "keys.yaml:5: 'id' stands twice"},
      {"keys:\n" + good + good, "keys.yaml:5: two keys have the id 'a'"},
      {"keys:\n  - id: a\n    tenant: t\n", "keys.yaml:2: a key needs"},
      {"keys:\n  - id: a\n    tenant: t\n    sha256: abc\n", "keys.yaml:4: 'sha256'"},
      {"keys: 3\n", "keys.yaml:1: 'keys' must be a list"},
      {"kays: []\n", "keys.yaml:1: the file must be a map"},
      {"keys:\n\t- x\n", "keys.yaml:2: this is not YAML"},
  };
  for (const auto& one : cases) {
    const auto ring = KeyRing::Parse(one.text, "keys.yaml");
    ASSERT_FALSE(ring.ok()) << one.text;
    EXPECT_NE(std::string(ring.status().message()).find(one.message), std::string::npos) << one.text << ring.status();
  }
}

TEST(WithoutKeysTest, WhatLooksLikeAKeyIsHidden) {
  const std::string secret = MakeKey().secret;
  EXPECT_EQ(WithoutKeys("/v1/models/" + secret + "/x"), "/v1/models/sk-***/x");
  EXPECT_EQ(WithoutKeys(secret), "sk-***");
  EXPECT_EQ(WithoutKeys("/a/" + secret.substr(0, 40)), "/a/sk-***") << "cut";
  EXPECT_EQ(WithoutKeys("sk-proj-0123456789,sk-0123456789abcdef"), "sk-***,sk-***");
  for (const char* plain : {"", "sk-", "/v1/task-management-board", "/v1/sk-learn", "/health"}) EXPECT_EQ(WithoutKeys(plain), plain);
}

TEST(SecretOfTest, BearerAndBasic) {
  EXPECT_EQ(SecretOf("Bearer abc"), "abc");
  EXPECT_EQ(SecretOf("bearer abc"), "abc");
  EXPECT_EQ(SecretOf("Basic " + absl::Base64Escape("prometheus:abc:d")), "abc:d");
  EXPECT_EQ(SecretOf("Basic !!!"), "");
  EXPECT_EQ(SecretOf("Basic " + absl::Base64Escape("nocolon")), "");
  EXPECT_EQ(SecretOf("Digest abc"), "");
  EXPECT_EQ(SecretOf("abc"), "");
  EXPECT_EQ(SecretOf(""), "");
  EXPECT_EQ(SecretOf("Bearer " + std::string(5000, 'x')), "");
}

}  // namespace
}  // namespace pagoda::security
