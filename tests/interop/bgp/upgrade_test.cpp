/// Two reflectors upgraded one after the other under load, with the same and with different cluster ids: no VM's route
/// is missing anywhere at any time. What "anywhere" sees: the kernel of a client of ours (`ip monitor route`, every
/// event) and the tables of our client, BIRD 2, FRR and GoBGP, read as fast as they answer.
#include <gmock/gmock.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <mutex>
#include <sstream>
#include <thread>

#include "tests/support/bgp/peers.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

constexpr int kFirstClient = 3, kWithKernel = 3, kChurner = 5;

/// Reads one client's table again and again; remembers the first time that a route was missing or led elsewhere.
class Watcher {
 public:
  /// inspect: called with the first fault, for what else is worth knowing at that moment.
  Watcher(Peer& peer, std::map<std::string, std::string> stable, std::function<std::string(const std::string&)> inspect)
      : peer_(peer), stable_(std::move(stable)), inspect_(std::move(inspect)), thread_([this] { run(); }) {}
  ~Watcher() { stop(); }
  /// How often it looked.
  int stop() {
    ended_ = true;
    if (thread_.joinable()) thread_.join();
    return looked_;
  }
  int looked() const { return looked_; }
  std::string fault() {
    std::lock_guard lock(mutex_);
    return fault_;
  }

 private:
  void run() {
    while (!ended_) {
      const auto table = peer_.table();
      std::string missing;
      for (const auto& [prefix, next_hop] : stable_) {
        const auto at = table.find(prefix);
        if (at == table.end()) missing += " no " + prefix;
        if (at != table.end() && at->second.next_hop != next_hop) {
          std::ostringstream row;
          row << at->second;
          missing += " " + prefix + " wanted via " + next_hop + " but " + row.str();
        }
      }
      ++looked_;
      if (missing.empty()) continue;
      std::lock_guard lock(mutex_);
      if (fault_.empty())
        fault_ = "node " + std::to_string(peer_.node()) + ", look " + std::to_string(looked_) + ":" +
                 missing.substr(0, 2000) + "\n" + (inspect_ ? inspect_(missing) : "");
    }
  }
  Peer& peer_;
  const std::map<std::string, std::string> stable_;
  const std::function<std::string(const std::string&)> inspect_;
  std::atomic<bool> ended_{false};
  std::atomic<int> looked_{0};
  std::mutex mutex_;
  std::string fault_;
  std::thread thread_;
};

class UpgradeTest : public testing::TestWithParam<bool> {
 protected:
  static std::vector<Announcement> vms(int n) {
    std::vector<Announcement> out;
    for (int i = 1; i <= 50; ++i) {
      out.push_back({.prefix = "10.65." + std::to_string(n) + "." + std::to_string(i) + "/32"});
      if (i % 5 == 0) out.push_back({.prefix = "fd00:65:" + std::to_string(n) + "::" + std::to_string(i) + "/128"});
    }
    return out;
  }
  void SetUp() override {
    NEEDS_NETNS();
    for (auto kind : {DaemonKind::bird2, DaemonKind::frr, DaemonKind::gobgp})
      if (const auto what = PeerLab::missing(kind); !what.empty()) GTEST_SKIP() << "SKIPPED, needs " << what;
    lab_ = std::make_unique<PeerLab>("upgrade");
    for (int rr : {1, 2}) {
      auto& r = lab_->ours(rr);
      if (GetParam()) r.options = "cluster=10.66.0.100";
      const int other = 3 - rr;
      r.sessions.push_back({.name = "r" + std::to_string(other), .local = lab_->v4(rr), .remote = lab_->v4(other)});
    }
    int n = kFirstClient;
    for (auto kind : {DaemonKind::ours, DaemonKind::ours, DaemonKind::ours, DaemonKind::bird2, DaemonKind::frr,
                      DaemonKind::gobgp}) {
      auto& client = lab_->add(kind, n);
      client.routes = vms(n);
      for (int rr : {1, 2}) {
        client.sessions.push_back({.name = "rr" + std::to_string(rr), .local = lab_->v4(n), .remote = lab_->v4(rr)});
        lab_->at(rr).sessions.push_back(
            {.name = "c" + std::to_string(n), .local = lab_->v4(rr), .remote = lab_->v4(n), .ours = "client"});
      }
      clients_.push_back(n++);
    }
    static_cast<OurPeer&>(lab_->at(kWithKernel)).options = "kernel=yes";
    static_cast<OurPeer&>(lab_->at(kChurner)).options = "churn=10.70.0.0/24,200,20";
  }
  void TearDown() override {
    if (lab_ && HasFailure()) std::cerr << lab_->explain();
    lab_.reset();
  }
  std::map<std::string, std::string> stable_for(int reader) {
    std::map<std::string, std::string> out;
    for (int n : clients_)
      if (n != reader)
        for (const auto& a : vms(n)) out[a.prefix] = is_v6(a.prefix) ? lab_->v6(n) : lab_->v4(n);
    return out;
  }
  /// Empty, or what is not in this client's table (churned routes may be there or not).
  std::string missing_at(int n, bool exactly = false) {
    const auto table = lab_->at(n).table();
    const auto stable = stable_for(n);
    std::string out;
    for (const auto& [prefix, next_hop] : stable)
      if (!table.contains(prefix) || table.at(prefix).next_hop != next_hop) out += " " + prefix;
    for (const auto& [prefix, row] : table)
      if (exactly && !stable.contains(prefix)) out += " extra " + prefix;
    return out;
  }
  bool all_up(int rr) {
    auto& r = lab_->at(rr);
    for (const auto& s : r.sessions)
      if (!r.established(s.name)) return false;
    return true;
  }
  void expect_everything(bool exactly) {
    for (int n : clients_) {
      std::string missing;
      EXPECT_TRUE(eventually("the table of node " + std::to_string(n),
                             [&] {
                               missing = missing_at(n, exactly);
                               return missing.empty();
                             }))
          << missing << "\nas a reflector has it: "
          << static_cast<OurPeer&>(lab_->at(1)).birdc("show route all for " + missing.substr(1, missing.find('/') - 1));
    }
  }

  std::unique_ptr<PeerLab> lab_;
  std::vector<int> clients_;
};

TEST_P(UpgradeTest, NoVmRouteIsEverMissing) {
  for (int n : {1, 2}) lab_->at(n).start();
  for (int n : clients_) lab_->at(n).start();
  for (int rr : {1, 2})
    ASSERT_TRUE(eventually("all sessions of reflector " + std::to_string(rr), [&] { return all_up(rr); }));
  expect_everything(false);
  const auto in_kernel = [&] {
    const auto& ns = lab_->at(kWithKernel).ns();
    return ns.run("ip route show proto 89") + ns.run("ip -6 route show proto 89");
  };
  const auto kernel_missing = [&] {
    std::string out;
    std::istringstream in(in_kernel());
    std::set<std::string> there;
    for (std::string line; std::getline(in, line);) there.insert(line.substr(0, line.find(' ')));
    for (const auto& [prefix, next_hop] : stable_for(kWithKernel))
      if (!there.contains(prefix.substr(0, prefix.find('/')))) out += " " + prefix;
    return out;
  };
  ASSERT_TRUE(eventually("the kernel's routes", [&] { return kernel_missing().empty(); })) << kernel_missing();
  ASSERT_FALSE(HasFailure());

  const auto log = std::filesystem::temp_directory_path() / ("calico-monitor-" + std::to_string(getpid()));
  auto monitor = lab_->at(kWithKernel).ns().spawn("exec ip monitor route", log);
  // The load is on, and the monitor sees routes come and go.
  const auto churned = [&](const std::string& what) {
    std::ifstream in(log);
    long count = 0;
    for (std::string line; std::getline(in, line);) count += line.compare(0, what.size(), what) == 0;
    return count;
  };
  ASSERT_TRUE(eventually("churn in the kernel", [&] { return churned("Deleted 10.70.") > 100; }));

  const auto inspect = [&](const std::string& fault) {
    const auto at = fault.find_first_of("0123456789f");
    const auto address = fault.substr(at, fault.find('/') - at);
    std::string out;
    for (int n : {1, 2, 3, 4, 5})
      out += "node " + std::to_string(n) + " has\n" +
             static_cast<OurPeer&>(lab_->at(n)).birdc("show route all for " + address);
    return out;
  };
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int n : {4, 6, 7, 8}) watchers.push_back(std::make_unique<Watcher>(lab_->at(n), stable_for(n), inspect));
  for (int round = 0; round < 2; ++round)
    for (int rr : {1, 2}) {
      SCOPED_TRACE("round " + std::to_string(round) + ", reflector " + std::to_string(rr));
      const auto churn_before = churned("10.70.");
      lab_->at(rr).kill(SIGTERM);
      // It stays away long enough for all to notice, under load, and to be looked at in this state.
      ASSERT_TRUE(eventually("the clients' loss of the session", [&] {
        for (int n : clients_)
          if (lab_->at(n).established("rr" + std::to_string(rr))) return false;
        return true;
      }));
      for (auto& w : watchers) {
        const int looked = w->looked();
        ASSERT_TRUE(eventually("two more looks at a table", [&] { return w->looked() >= looked + 2; }));
      }
      lab_->at(rr).start(true);
      ASSERT_TRUE(eventually("all its sessions", [&] { return all_up(rr); }));
      // Upgraded means: it has the whole picture again (its restart is over), so that the other one may go.
      auto& r = static_cast<OurPeer&>(lab_->at(rr));
      ASSERT_TRUE(eventually("the end of its restart", [&] {
        const auto text = r.birdc("show status");
        return text.find("Daemon is up and running") != std::string::npos && text.find("Waiting") == std::string::npos;
      })) << r.birdc("show status");
      EXPECT_GT(churned("10.70."), churn_before) << "there was no load";
    }
  for (auto& w : watchers) {
    EXPECT_GE(w->stop(), 10);
    EXPECT_EQ(w->fault(), "");
  }
  // The load ends: what is left is exactly what is announced.
  static_cast<OurPeer&>(lab_->at(kChurner)).signal(SIGHUP);
  expect_everything(true);
  EXPECT_EQ(kernel_missing(), "");
  ASSERT_TRUE(eventually("the end of the churned routes in the kernel",
                         [&] { return in_kernel().find("10.70.") == std::string::npos; }));
  monitor.kill_now(SIGTERM);
  std::ifstream in(log);
  std::string gone;
  for (std::string line; std::getline(in, line);)
    if (line.find("Deleted") == 0 && (line.find(" 10.65.") != line.npos || line.find(" fd00:65:") != line.npos))
      gone += line + "\n";
  EXPECT_EQ(gone.substr(0, 3000), "") << "removed from the kernel of a client during the upgrades";
  std::filesystem::remove(log);
}

INSTANTIATE_TEST_SUITE_P(Clusters, UpgradeTest, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "same" : "different"; });

}  // namespace
}  // namespace calico::test
