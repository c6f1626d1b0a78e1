#pragma once
/// What changes to resources must do, on any datastore. A test program instantiates it with its backends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <functional>
#include <memory>

#include "core/resources/changes.hpp"
#include "core/resources/yaml.hpp"
#include "tests/support/datastore_backends.hpp"
#include "tests/support/fixtures.hpp"
#include "tests/support/run.hpp"

namespace calico::resources {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;

using MakeBackend = std::function<std::unique_ptr<test::DatastoreBackend>(Loop&)>;

class Changes : public testing::TestWithParam<std::pair<const char*, MakeBackend>> {
 protected:
  void SetUp() override {
    loop_.start();
    backend_ = GetParam().second(loop_);
  }
  void TearDown() override {
    backend_.reset();
    loop_.stop();
  }
  store::Datastore& ds() { return backend_->datastore(); }

  std::vector<Item> items(const std::string& yaml, ReadOptions options = {}) {
    Manifest m;
    read_manifest("f", yaml, options, m);
    for (const auto& f : m.faults) ADD_FAILURE() << f.to_string();
    return std::move(m.items);
  }
  Changed raw(std::vector<Item> list, Verb verb, bool dry_run = false, bool skip = false) {
    ChangeOptions o;
    o.verb = verb;
    o.dry_run = dry_run;
    o.skip = skip;
    o.now = fmt::format("2026-01-01T00:00:{:02}Z", ++seconds_);
    o.make_uid = [this] { return uid_of(static_cast<std::uint64_t>(++uids_), 7); };
    return test::run(loop_, "the change", [&]() -> awaitable<Changed> {
      auto done = co_await change(ds(), list, o);
      co_return done;
    });
  }
  /// "created", "refused: why", "!error".
  std::vector<std::string> write(const std::string& yaml, Verb verb = Verb::apply, bool dry_run = false,
                                 bool skip = false) {
    const auto done = raw(items(yaml, {.identity_only = verb == Verb::remove}), verb, dry_run, skip);
    std::vector<std::string> out;
    if (done.error) out.push_back("!" + done.error->what);
    for (const auto& o : done.outcomes)
      out.push_back(std::string(to_string(o.kind)) + (o.why.empty() ? "" : ": " + o.why));
    return out;
  }
  Result<json::object> get(const std::string& kind, const std::string& ns, const std::string& name) {
    return test::run(loop_, "the resource", [&]() -> awaitable<Result<json::object>> {
      std::vector<std::string> keys{key_of(*find_exact(kind), ns, name)};
      auto got = co_await get_one(ds(), keys);
      co_return got;
    });
  }
  store::Revision revision() {
    return test::run(loop_, "the revision", [&]() -> awaitable<store::Revision> {
      store::RangeRequest request;
      request.key = "/none";
      auto got = co_await ds().range(request);
      co_return got ? got->revision : -1;
    });
  }
  void put(const std::string& key, const std::string& value) {
    test::run(loop_, "the put", [&]() -> awaitable<bool> {
      store::PutRequest request;
      request.key = key;
      request.value = value;
      auto done = co_await ds().put(request);
      EXPECT_TRUE(done);
      co_return true;
    });
  }

  Loop loop_{"changes"};
  std::unique_ptr<test::DatastoreBackend> backend_;
  int seconds_ = 0, uids_ = 0;
};

inline std::string node(const std::string& name, const std::string& spec = "{}", const std::string& more = "") {
  return "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: " + name + more + "}\nspec: " + spec +
         "\n";
}
inline std::string policy(const std::string& name, const std::string& spec) {
  return "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: " + name +
         ", namespace: openstack}\nspec: " + spec + "\n";
}

TEST_P(Changes, ApplyKeepsWhatCommandsHaveNotedAndReplaceDoesNot) {
  const std::string noted = R"(, annotations: {calico-node/drain: "yes", other: x})";
  EXPECT_THAT(write(node("a", "{}", noted)), ElementsAre("created"));
  const auto annotations = [&] { return get("Node", "", "a")->at("metadata").get_object()["annotations"]; };
  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 64512}}")), ElementsAre("updated"));
  EXPECT_EQ(annotations(), json::parse(R"({"calico-node/drain":"yes"})")) << "a file that does not mention it";
  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 64512}}")), ElementsAre("unchanged"));
  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 64512}}", R"(, annotations: {calico-node/drain: "no"})")),
              ElementsAre("updated"));
  EXPECT_EQ(annotations(), json::parse(R"({"calico-node/drain":"no"})")) << "one that does";
  EXPECT_THAT(write(node("a"), Verb::replace), ElementsAre("updated"));
  EXPECT_TRUE(annotations().is_null());
}

TEST_P(Changes, ApplyMakesChangesAndLeavesAlone) {
  const auto before = revision();
  EXPECT_THAT(write(node("a") + node("b")), ElementsAre("created", "created"));
  EXPECT_EQ(revision(), before + 1) << "one transaction";
  const auto made = get("Node", "", "a");
  ASSERT_TRUE(made) << made.error().what;
  EXPECT_EQ(made->at("metadata").at("creationTimestamp"), "2026-01-01T00:00:01Z");
  EXPECT_EQ(made->at("metadata").at("resourceVersion"), json::value(std::to_string(before + 1)));

  EXPECT_THAT(write(node("a") + node("b")), ElementsAre("unchanged", "unchanged"));
  EXPECT_EQ(revision(), before + 1) << "nothing was written";

  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 64512}}") + node("b")), ElementsAre("updated", "unchanged"));
  const auto changed = get("Node", "", "a");
  EXPECT_EQ(changed->at("spec").at("bgp").at("asNumber"), 64512);
  for (const char* kept : {"uid", "creationTimestamp"})
    EXPECT_EQ(changed->at("metadata").at(kept), made->at("metadata").at(kept)) << kept;
  EXPECT_EQ(get("Node", "", "b")->at("metadata").at("resourceVersion"), json::value(std::to_string(before + 1)));
}

TEST_P(Changes, WhatGetPrintsIsUnchangedWhenApplied) {
  std::vector<std::string> keys;
  std::string yaml, text;
  for (const auto& [key, value] : test::openstack_snapshot())
    if (key.find("/networkpolicies/") != std::string::npos || key.find("/workloadendpoints/") != std::string::npos ||
        key.find("/felixconfigurations/") != std::string::npos) {
      put(key, value);
      keys.push_back(key);
    }
  write(policy("mine",
               "{selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, '1:2']}}]}") +
        node("h", "{bgp: {asNumber: '1.10', ipv4Address: 192.0.2.1/24}}", ", labels: {zone: '1'}"));
  keys.push_back(key_of(*find_exact("NetworkPolicy"), "openstack", "default.mine"));
  keys.push_back(key_of(*find_exact("Node"), "", "h"));
  for (const auto& key : keys) {
    auto got = test::run(loop_, "the resource", [&]() -> awaitable<Result<json::object>> {
      std::vector<std::string> one{key};
      auto r = co_await get_one(ds(), one);
      co_return r;
    });
    ASSERT_TRUE(got) << key;
    yaml += "---\n" + to_yaml(*got);
    text += to_pretty_json(*got);
    EXPECT_THAT(write(to_pretty_json(*got)), ElementsAre("unchanged")) << key;
  }
  const auto before = revision();
  const auto done = write(yaml);
  EXPECT_EQ(done, std::vector<std::string>(keys.size(), "unchanged"));
  EXPECT_EQ(revision(), before);
}

TEST_P(Changes, TypesOfAPolicyFollowItsRulesUnlessItIsTheDrivers) {
  const auto types = [&](const std::string& name) {
    const auto got = get("NetworkPolicy", "openstack", name);
    const auto* found = got->at("spec").get_object().if_contains("types");
    return found ? json::serialize(*found) : std::string("none");
  };
  const std::string in = "ingress: [{action: Allow}]", out = "egress: [{action: Allow}]";
  EXPECT_THAT(
      write(policy("a", "{" + in + "}") + policy("b", "{" + out + "}") + policy("c", "{" + in + ", " + out + "}") +
            policy("d", "{}") + policy("e", "{types: [Egress], " + in + "}")),
      ElementsAre("created", "created", "created", "created", "created"));
  EXPECT_EQ(types("default.a"), R"(["Ingress"])");
  EXPECT_EQ(types("default.b"), R"(["Egress"])");
  EXPECT_EQ(types("default.c"), R"(["Ingress","Egress"])");
  EXPECT_EQ(types("default.d"), R"(["Ingress"])");
  EXPECT_EQ(types("default.e"), R"(["Egress"])");
  EXPECT_THAT(write(policy("a", "{" + in + "}")), ElementsAre("unchanged"));
  // Both directions stay closed: absent types mean both.
  EXPECT_THAT(write(policy("ossg.default.1", "{ingress: [], " + out + "}")), ElementsAre("created"));
  EXPECT_EQ(types("ossg.default.1"), "none");
  put(key_of(*find_exact("NetworkPolicy"), "openstack", "default.x"),
      R"({"metadata":{"name":"default.x","namespace":"openstack"},"spec":{"egress":[]}})");
  EXPECT_THAT(write(policy("x", "{" + out + "}")), ElementsAre("updated"));
  EXPECT_EQ(types("default.x"), "none");
}

TEST_P(Changes, ResourceVersionIsCompared) {
  ASSERT_THAT(write(node("a") + node("b")), ElementsAre("created", "created"));
  const auto version = std::string(get("Node", "", "a")->at("metadata").at("resourceVersion").get_string());
  const auto with = [&](const std::string& v) { return ", resourceVersion: '" + v + "'"; };
  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 1}}", with(version))), ElementsAre("updated"));
  const auto before = revision();
  EXPECT_THAT(write(node("b", "{bgp: {asNumber: 2}}") + node("a", "{bgp: {asNumber: 3}}", with(version))),
              ElementsAre("updated", HasSubstr("refused: conflict: it was changed meanwhile")));
  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 1}}", with(version))), ElementsAre(HasSubstr("conflict")))
      << "also when it would change nothing";
  EXPECT_THAT(write(node("new", "{}", with("5"))),
              ElementsAre(HasSubstr("conflict: resourceVersion 5 is given and it is not there")));
  EXPECT_THAT(write(node("a", "{}", with(version)), Verb::remove), ElementsAre(HasSubstr("conflict")));
  EXPECT_THAT(write(node("a", "{}", ", uid: other")), ElementsAre(HasSubstr("its uid differs")));
  EXPECT_EQ(revision(), before) << "all or nothing";
}

TEST_P(Changes, CreateReplaceAndDeleteWantWhatTheySay) {
  EXPECT_THAT(write(node("a"), Verb::replace), ElementsAre("refused: is not there"));
  EXPECT_THAT(write(node("a"), Verb::remove), ElementsAre("refused: is not there"));
  EXPECT_THAT(write(node("a"), Verb::remove, false, true), ElementsAre("skipped"));
  EXPECT_THAT(write(node("a"), Verb::create, true), ElementsAre("created"));
  EXPECT_FALSE(get("Node", "", "a")) << "a dry run";
  EXPECT_THAT(write(node("a"), Verb::create), ElementsAre("created"));
  EXPECT_THAT(write(node("b") + node("a"), Verb::create), ElementsAre("created", "refused: is there already"));
  EXPECT_FALSE(get("Node", "", "b"));
  EXPECT_THAT(write(node("b") + node("a"), Verb::create, false, true), ElementsAre("created", "skipped"));
  EXPECT_THAT(write(node("a", "{bgp: {asNumber: 1}}"), Verb::replace), ElementsAre("updated"));
  EXPECT_THAT(write(node("a") + node("b"), Verb::remove), ElementsAre("deleted", "deleted"));
  EXPECT_FALSE(get("Node", "", "a"));
}

TEST_P(Changes, OneTransactionHoldsThe128) {
  std::string text;
  for (int i = 0; i < 128; ++i) text += node(fmt::format("n-{}", i));
  const auto before = revision();
  EXPECT_EQ(write(text), std::vector<std::string>(128, "created"));
  EXPECT_EQ(revision(), before + 1);
  EXPECT_EQ(write(text), std::vector<std::string>(128, "unchanged"));
  EXPECT_THAT(write(text + node("one-more")), ElementsAre(HasSubstr("at most 128")));
  EXPECT_EQ(write(text, Verb::remove), std::vector<std::string>(128, "deleted"));
}

TEST_P(Changes, ListsComeInPagesAtOneRevision) {
  std::string text;
  for (int i = 0; i < 25; ++i) text += node(fmt::format("n-{:02}", i));
  ASSERT_EQ(write(text).size(), 25U);
  put(key_of(*find_exact("Node"), "", "n-99"), "not JSON");
  put(key_of(*find_exact("Node"), "", "n-98"), R"({"spec":{}})");
  const auto page = [&](const std::string& after, store::Revision at) {
    auto got = test::run(loop_, "the page", [&]() -> awaitable<Result<Page>> {
      auto r = co_await list_page(ds(), prefix_of(*find_exact("Node"), ""), after, at, 10);
      co_return r;
    });
    if (!got) throw std::runtime_error(got.error().what);
    return std::move(*got);
  };
  const auto first = page("", 0);
  EXPECT_EQ(first.resources.size(), 10U);
  ASSERT_FALSE(first.next.empty());
  ASSERT_THAT(write(node("n-11x")), ElementsAre("created"));
  const auto second = page(first.next, first.revision);
  const auto third = page(second.next, first.revision);
  EXPECT_EQ(second.resources.at(1).at("metadata").at("name"), "n-11");
  EXPECT_EQ(second.resources.at(2).at("metadata").at("name"), "n-12") << "as it was at the first page";
  EXPECT_EQ(third.resources.size(), 5U);
  EXPECT_EQ(third.next, "");
  EXPECT_EQ(third.broken.size(), 2U);
}

TEST_P(Changes, AValueThatIsNoResourceIsReplaced) {
  put(key_of(*find_exact("Node"), "", "a"), "rubbish");
  EXPECT_FALSE(get("Node", "", "a"));
  EXPECT_THAT(write(node("a")), ElementsAre("updated"));
  EXPECT_TRUE(get("Node", "", "a")->at("metadata").get_object().contains("uid"));
}

inline std::string changes_name(const testing::TestParamInfo<Changes::ParamType>& info) { return info.param.first; }

}  // namespace calico::resources
