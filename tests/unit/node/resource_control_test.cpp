// The process' side and the commands' side of changing resources, together, over a datastore in memory whose accidents
// the test directs.
#include "core/node/resource_control.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>

#include "core/http/message.hpp"
#include "core/node/resource_client.hpp"
#include "tests/unit/sync/fake_datastore.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using resources::Item;
using resources::Verb;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

class FakeControl final : public module::Control {
 public:
  void handle(std::string route, module::ControlHandler handler) override { handlers[route] = std::move(handler); }
  std::map<std::string, module::ControlHandler> handlers;
};

class ResourceControlTest : public testing::Test {
 protected:
  /// As the socket does it; `lose` decides of which questions the answer is lost after they took effect.
  Ask ask() {
    return
        [this](const std::string& method, const std::string& target, std::string body) -> Result<module::ControlReply> {
          ++asked_;
          module::ControlRequest r;
          const auto mark = target.find('?');
          r.path = target.substr(0, mark);
          std::string_view rest =
              mark == std::string::npos ? std::string_view() : std::string_view(target).substr(mark + 1);
          while (!rest.empty()) {
            const auto end = rest.find('&');
            const auto pair = rest.substr(0, end);
            const auto eq = pair.find('=');
            r.query[std::string(pair.substr(0, eq))] = *http::percent_decode(pair.substr(eq + 1), true);
            rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
          }
          r.body = std::move(body);
          if (before) before(r);
          auto reply = control_.handlers.at(method + " " + r.path)(r);
          if (lose && lose(r)) return fail(Errc::unavailable, "connection closed inside the answer");
          return reply;
        };
  }
  static std::vector<Item> items(const std::string& text) {
    resources::Manifest m;
    read_manifest("f", text, {}, m);
    for (const auto& f : m.faults) ADD_FAILURE() << f.to_string();
    return std::move(m.items);
  }
  static std::string node(const std::string& name, const std::string& spec = "{}", const std::string& more = "") {
    return "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: " + name + more + "}\nspec: " + spec +
           "\n";
  }
  static std::string nodes(int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += node(fmt::format("n-{:04}", i));
    return out;
  }
  static std::map<std::string, int> counted(const WriteReport& r) {
    std::map<std::string, int> out;
    for (const auto& i : r.results) ++out[i.action];
    return out;
  }
  static bool dry(const module::ControlRequest& r) { return r.body.find(R"("dry_run":true)") != std::string::npos; }

  std::shared_ptr<test::FakeDatastore> fake_ = std::make_shared<test::FakeDatastore>();
  test::Client store_{fake_};
  FakeControl control_;
  ResourceControl commands_{*fake_, control_};
  std::function<bool(const module::ControlRequest&)> lose;
  std::function<void(const module::ControlRequest&)> before;
  int asked_ = 0;
};

TEST_F(ResourceControlTest, ManyGoInBatchesAndListedInPages) {
  auto report = write_items(ask(), items(nodes(1200)), {.verb = Verb::apply});
  EXPECT_EQ(report.code, 0) << report.error;
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"created", 1200}}));
  EXPECT_EQ(asked_, 20) << "ten batches, tried dry first";
  const auto listed = list_resources(ask(), *resources::find_kind("node"), "");
  ASSERT_TRUE(listed) << listed.error().what;
  ASSERT_EQ(listed->items.size(), 1200U);
  EXPECT_EQ(listed->items.back().at("metadata").at("name"), "n-1199");
  const auto one = get_resource(ask(), *resources::find_kind("node"), "", "n-1199");
  ASSERT_TRUE(one);
  report = write_items(ask(), items(nodes(1200)), {.verb = Verb::remove});
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"deleted", 1200}}));
  EXPECT_EQ(get_resource(ask(), *resources::find_kind("node"), "", "n-1199").error().code, 1);
}

TEST_F(ResourceControlTest, AConflictAnywhereIsFoundBeforeTheFirstWrite) {
  const auto report = write_items(ask(), items(nodes(200) + node("late", "{}", ", resourceVersion: 5")), {});
  EXPECT_EQ(report.code, 1);
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"not written", 200}, {"refused", 1}}));
  EXPECT_THAT(report.results.back().why, HasSubstr("conflict"));
  EXPECT_TRUE(list_resources(ask(), *resources::find_kind("node"), "")->items.empty());
}

TEST_F(ResourceControlTest, WhatWasWrittenIsSaidExactlyWhenItEndsHalfWay) {
  // The datastore goes away before the second of three batches is written.
  int real = 0;
  before = [&](const auto& r) {
    if (r.path == "/resources/change" && !dry(r) && ++real == 2) fake_->set_down(true);
  };
  auto report = write_items(ask(), items(nodes(300)), {});
  EXPECT_EQ(report.code, 3);
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"created", 128}, {"not written", 172}}));
  fake_->set_down(false);
  EXPECT_EQ(list_resources(ask(), *resources::find_kind("node"), "")->items.size(), 128U);
  // The answer to the second batch is lost: it was written and nobody can know.
  real = 0;
  before = nullptr;
  lose = [&](const auto& r) { return r.path == "/resources/change" && !dry(r) && ++real == 2; };
  report = write_items(ask(), items(nodes(300)), {});
  EXPECT_EQ(report.code, 3);
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"unchanged", 128}, {"not known", 128}, {"not written", 44}}));
  lose = nullptr;
  report = write_items(ask(), items(nodes(300)), {});
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"unchanged", 256}, {"created", 44}}));
}

TEST_F(ResourceControlTest, NoProcessMeansNothingWritten) {
  const Ask nobody = [](const auto&, const auto&, auto) -> Result<module::ControlReply> {
    return fail(Errc::unavailable, "no calico-node answers");
  };
  const auto report = write_items(nobody, items(nodes(3)), {});
  EXPECT_EQ(report.code, 3);
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"not written", 3}}));
  EXPECT_EQ(list_resources(nobody, *resources::find_kind("node"), "").error().code, 3);
}

TEST_F(ResourceControlTest, ADryRunWritesNothing) {
  const auto report = write_items(ask(), items(nodes(2)), {.dry_run = true});
  EXPECT_EQ(counted(report), (std::map<std::string, int>{{"created", 2}}));
  EXPECT_TRUE(list_resources(ask(), *resources::find_kind("node"), "")->items.empty());
}

TEST_F(ResourceControlTest, TheProcessChecksWhatItIsSent) {
  const auto post = [&](std::string body) {
    auto reply = ask()("POST", "/resources/change", std::move(body));
    return fmt::format("{} {}", reply->status, reply->json);
  };
  for (const char* body : {"", "[]", "{}", R"({"verb":"apply"})", R"({"verb":"burn","items":[]})",
                           R"({"verb":"apply","items":[1]})", R"({"verb":"apply","items":[{"kind":"Node"}]})"})
    EXPECT_THAT(post(body), testing::StartsWith("400 ")) << body;
  const std::string bad =
      R"({"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"a"},"spec":{"bgp":{"asNumber":"x"}}})";
  EXPECT_THAT(post(R"({"verb":"apply","items":[)" + bad + "]}"), HasSubstr("spec.bgp.asNumber"));
  const std::string info =
      R"({"apiVersion":"projectcalico.org/v3","kind":"ClusterInformation","metadata":{"name":"default"}})";
  EXPECT_THAT(post(R"({"verb":"delete","items":[)" + info + "]}"), HasSubstr("read only"));
  std::string many;
  for (int i = 0; i < 129; ++i) many += (i ? "," : "") + info;
  EXPECT_THAT(post(R"({"verb":"delete","items":[)" + many + "]}"), HasSubstr("at most 128"));
  for (const char* target :
       {"/resources/list?kind=x", "/resources/list?kind=np&namespace=a/b", "/resources/list?kind=np&after=/calico/x",
        "/resources/get?kind=np&name=a", "/resources/get?kind=node&name=a/b", "/resources/get?kind=node"})
    EXPECT_EQ(ask()("GET", target, {})->status, 400) << target;
}

TEST_F(ResourceControlTest, APolicyIsFoundByTheNameItsFileGaveIt) {
  const auto list = items(
      "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: web, namespace: openstack}\nspec: {}\n");
  ASSERT_EQ(write_items(ask(), list, {}).code, 0);
  for (const char* name : {"web", "default.web"}) {
    const auto one = get_resource(ask(), *resources::find_kind("np"), "openstack", name);
    ASSERT_TRUE(one) << one.error().what;
    EXPECT_EQ(one->at("metadata").at("name"), "default.web");
  }
  EXPECT_EQ(list_resources(ask(), *resources::find_kind("np"), "other")->items.size(), 0U);
  EXPECT_EQ(list_resources(ask(), *resources::find_kind("np"), "")->items.size(), 1U);
}

}  // namespace
}  // namespace calico::node
