#include "core/membership/renewer.hpp"

#include <gmock/gmock.h>

#include <filesystem>

#include "core/http/certificates.hpp"
#include "core/membership/files.hpp"
#include "core/store/etcd/client.hpp"
#include "tests/unit/membership/controller.hpp"

namespace calico::membership {
namespace {

using testing::HasSubstr;

/// A node that joined `ago`, and its renewer.
class RenewerTest : public testing::Test {
 protected:
  void join_at(Duration from_now) {
    controller_ = std::make_unique<Controller>(AuthorityOptions{}, from_now);
    clock_.set(from_now);
    auto joined = join(controller_->options_for(node_, controller_->token(), "compute-1"));
    ASSERT_TRUE(joined) << joined.error().what;
    joined_ = *joined;
    Renewer::Options o;
    o.endpoints = {controller_->at()};
    o.pki_dir = node_.file("pki");
    o.clock = &clock_;
    o.changed = [this]() -> awaitable<Status> {
      ++changed_;
      co_return Status{};
    };
    o.say = [this](Renewer::Said what, const std::string& line) { said_.emplace_back(what, line); };
    renewer_ = std::make_unique<Renewer>(std::move(o));
  }
  void set(Duration from_now) {
    clock_.set(from_now);
    controller_->clock.set(from_now);
  }
  Duration step() {
    return controller_->run<Duration>("a step", [this] { return renewer_->step(); });
  }
  std::string serial() const { return read_certificate(*read_small(joined_.files.cert_file))->serial; }

  test::TempDir node_{"node"};
  test::MovableClock clock_;
  std::unique_ptr<Controller> controller_;
  Joined joined_;
  std::unique_ptr<Renewer> renewer_;
  int changed_ = 0;
  std::vector<std::pair<Renewer::Said, std::string>> said_;
};

TEST_F(RenewerTest, AtTwoThirdsAndNotBefore) {
  join_at(-24h * 70);
  EXPECT_LE(step(), 1min);
  set(-24h * 70 + 24h * 54);
  (void)step();
  EXPECT_EQ(serial(), joined_.serial) << "54 of 90 days";
  EXPECT_TRUE(said_.empty());
  set({});
  (void)step();
  EXPECT_NE(serial(), joined_.serial) << "70 of 90 days";
  ASSERT_EQ(said_.size(), 1U) << said_[0].second;
  EXPECT_EQ(said_[0].first, Renewer::Said::renewed);
  EXPECT_EQ(changed_, 1);
  (void)step();
  EXPECT_EQ(changed_, 1);
  EXPECT_EQ(controller_->post(node_files(node_.file("pki")), "/v3/kv/range", kRange)->status, 200U);
}

TEST_F(RenewerTest, DueIsSpreadByTheSerialNumber) {
  Certificate c;
  c.not_before = std::chrono::system_clock::now();
  c.not_after = c.not_before + 24h * 90;
  auto earliest = c.not_after, latest = c.not_before;
  for (int i = 0; i < 200; ++i) {
    c.serial = std::to_string(i);
    EXPECT_EQ(Renewer::due(c), Renewer::due(c));
    earliest = std::min(earliest, Renewer::due(c));
    latest = std::max(latest, Renewer::due(c));
  }
  EXPECT_GE(earliest, c.not_before + 24h * 55);
  EXPECT_LE(latest, c.not_before + 24h * 65);
  EXPECT_GT(latest - earliest, 24h * 7);
}

TEST_F(RenewerTest, AFailureSaysWhatIsLeftAndIsTriedAgain) {
  join_at(-24h * 70);
  controller_->clock.set({});
  clock_.set({});
  ASSERT_TRUE(controller_->revoke("compute-1"));
  (void)step();
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_EQ(said_[0].first, Renewer::Said::failed);
  EXPECT_THAT(said_[0].second, HasSubstr("19 d 23 h left"));
  EXPECT_THAT(said_[0].second, HasSubstr("is revoked"));
  EXPECT_THAT(said_[0].second, HasSubstr("tried again in 1 h"));
  EXPECT_EQ(said_[0].second.find('\n'), std::string::npos);
  (void)step();
  EXPECT_EQ(said_.size(), 1U) << "not before its time";
  clock_.set(61min);
  (void)step();
  EXPECT_EQ(said_.size(), 2U);
  EXPECT_EQ(serial(), joined_.serial);
  EXPECT_EQ(changed_, 0);
}

TEST_F(RenewerTest, ALostAnswerIsAskedForAgainWithTheSameKey) {
  join_at(-24h * 70);
  set({});
  // It could not be kept: a folder is where the link must go.
  const auto link = node_.file("pki/node"), aside = node_.file("aside");
  const auto target = std::filesystem::read_symlink(link);
  std::filesystem::remove(link);
  std::filesystem::create_directory(link);
  for (const char* f : {"ca.crt", "node.crt", "node.key"})
    std::filesystem::copy(node_.file("pki/" + target.string() + "/" + f), link + "/" + f);
  (void)step();
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_EQ(said_[0].first, Renewer::Said::failed);
  std::filesystem::rename(link, aside);
  std::filesystem::create_symlink(target, link);
  clock_.set(2h);
  (void)step();
  ASSERT_EQ(said_.size(), 2U);
  EXPECT_EQ(said_[1].first, Renewer::Said::renewed);
  int issued = 0;
  const auto rows = controller_->run<Result<std::vector<CertificateRow>>>(
      "the list", [this] { return controller_->authority->certificates(); });
  for (const auto& c : *rows) issued += c.name == "compute-1";
  EXPECT_EQ(issued, 2) << "the first, and one renewal";
}

TEST_F(RenewerTest, WhenItIsOverOneLineSaysHowToComeBack) {
  join_at({});
  clock_.set(24h * 91);
  (void)step();
  (void)step();
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_EQ(said_[0].first, Renewer::Said::over);
  EXPECT_THAT(said_[0].second, HasSubstr("join token --name compute-1"));
  // The operator does so; the process takes it up by itself.
  clock_.set({});
  ASSERT_TRUE(controller_->revoke("compute-1"));
  auto back = join(controller_->options_for(node_, controller_->token(), "compute-1"));
  ASSERT_TRUE(back) << back.error().what;
  (void)step();
  ASSERT_EQ(said_.size(), 2U);
  EXPECT_EQ(said_[1].first, Renewer::Said::replaced);
  EXPECT_EQ(changed_, 1);
}

TEST_F(RenewerTest, FilesThatAreGoneAreSaidOnce) {
  join_at({});
  std::filesystem::rename(node_.file("pki/node"), node_.file("pki/away"));
  (void)step();
  (void)step();
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_THAT(said_[0].second, HasSubstr("node.crt"));
  std::filesystem::rename(node_.file("pki/away"), node_.file("pki/node"));
  (void)step();
  EXPECT_EQ(said_.size(), 1U);
}

/// An etcd client that runs takes the new pair for new connections, without a restart.
TEST_F(RenewerTest, ARunningClientUsesTheNewCertificate) {
  join_at(-24h * 70);
  set({});
  store::EtcdOptions o;
  o.endpoints = {controller_->at()};
  o.tls = joined_.files;
  auto client = *store::EtcdClient::create(controller_->loop->executor(), o);
  const auto ask = [&] {
    return controller_->run<Result<store::ServerStatus>>("the status", [&] { return client->status(); });
  };
  ASSERT_TRUE(ask());
  Renewer::Options r;
  r.endpoints = {controller_->at()};
  r.pki_dir = node_.file("pki");
  r.clock = &clock_;
  r.changed = [client]() -> awaitable<Status> { return client->reload_tls(); };
  r.say = [](Renewer::Said, const std::string&) {};
  Renewer renewer(std::move(r));
  (void)controller_->run<Duration>("a step", [&] { return renewer.step(); });
  ASSERT_NE(serial(), joined_.serial);
  ASSERT_TRUE(ask());
  std::set<std::string> in_use;
  controller_->loop->call([&] {
    (void)controller_->gateway->close_peers([&](const http::Peer& p) {
      in_use.insert(p.serial);
      return false;
    });
  });
  EXPECT_TRUE(in_use.contains(serial())) << "the connection it asked on";
  controller_->loop->call([&] { client.reset(); });
}

TEST(LeftText, ReadsWell) {
  EXPECT_EQ(left_text(-1s), "none");
  EXPECT_EQ(left_text(30s), "less than a minute");
  EXPECT_EQ(left_text(12min), "12 min");
  EXPECT_EQ(left_text(1h), "1 h 0 min");
  EXPECT_EQ(left_text(24h * 3 + 4h + 5min), "3 d 4 h");
}

}  // namespace
}  // namespace calico::membership
