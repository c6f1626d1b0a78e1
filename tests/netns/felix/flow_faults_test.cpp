// The connection table's failures: answers that are lost, rights that are missing, entries that are gone, signals. What
// waits is done later or given up, and said; the loop never waits for an answer that does not come.
#include <dirent.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <set>

#include "core/conntrack/table.hpp"
#include "modules/felix/flows.hpp"
#include "tests/netns/felix/bench.hpp"
#include "tests/support/await.hpp"

namespace calico::test {
namespace {

using namespace std::chrono_literals;

/// Names that are numbers: threads in /proc/self/task, and of /proc/self/fd what is a socket.
std::set<int> numbers_in(const char* directory, bool sockets = false) {
  std::set<int> out;
  DIR* d = ::opendir(directory);
  if (!d) throw std::runtime_error(directory);
  while (const auto* e = ::readdir(d))
    if (struct stat st{};
        e->d_name[0] != '.' && (!sockets || (::fstat(std::atoi(e->d_name), &st) == 0 && S_ISSOCK(st.st_mode))))
      out.insert(std::atoi(e->d_name));
  ::closedir(d);
  return out;
}

/// The calling thread may no longer administer networks, and who it begins neither.
void give_up_rights() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) throw std::runtime_error("capget");
  data[0].effective &= ~(1U << CAP_NET_ADMIN);
  if (::syscall(SYS_capset, &header, data) != 0) throw std::runtime_error("capset");
}

enum class Rights { all, none_to_read, none_to_delete };

/// Felix's Flows over a namespace of its own.
struct Rig {
  static constexpr auto kAddress = "10.9.0.1";
  Netns ns{"ct"};
  Loop loop{"flows-test"};
  model::Ruleset ruleset;
  std::mutex mutex;
  std::set<Ip> forgotten;
  std::vector<int> sockets;  // of the table: the one that reads, the one that deletes
  std::optional<TaskGroup> tasks;
  std::optional<felix::Flows> flows;

  explicit Rig(Rights rights = Rights::all) {
    ns.run(
        "ip addr add 10.9.0.1/32 dev lo; nft 'add table inet t; add chain inet t o { type filter hook output priority "
        "0; "
        "}; add rule inet t o ct state new'");
    const auto before = numbers_in("/proc/self/fd", true);
    auto table = ns.in([] { return conntrack::Table::open(); });
    if (!table) throw std::runtime_error(table.error().what);
    for (const int fd : numbers_in("/proc/self/fd", true))
      if (!before.contains(fd)) sockets.push_back(fd);
    loop.start();
    loop.call([&] { tasks.emplace(loop.executor(), "flows-test"); });
    felix::Flows::Hooks h;
    h.ruleset = [this]() -> const model::Ruleset& { return ruleset; };
    h.is_local = [](const Ip&) { return false; };
    h.forgotten = [this](const std::set<Ip>& all) {
      std::lock_guard lock(mutex);
      forgotten.insert(all.begin(), all.end());
    };
    h.keep_out = [](const std::vector<conntrack::Tuple>&) {};
    std::thread([&] {
      if (rights == Rights::none_to_read) give_up_rights();
      flows.emplace(std::move(*table), loop.executor(), *tasks, std::move(h));
    }).join();
    if (rights == Rights::none_to_delete) loop.call([] { give_up_rights(); });
  }
  ~Rig() {
    loop.call([this] { tasks->cancel(); });
    loop.stop();
  }
  void open(int count) {
    Sock s(ns, SOCK_DGRAM);
    s.bind(kAddress, 0);
    for (int i = 0; i < count; ++i) s.send("x", kAddress, static_cast<std::uint16_t>(10000 + i));
  }
  void forget() {
    loop.call([this] { flows->forget({*Ip::parse(kAddress)}); });
  }
  bool is_forgotten() {
    std::lock_guard lock(mutex);
    return forgotten.contains(*Ip::parse(kAddress));
  }
  felix::Flows::Counts counts() {
    return loop.call([this] { return flows->counts(); });
  }
  std::vector<conntrack::Entry> entries() {
    LoopRunner runner;
    Loop reader("reader");
    reader.start();
    auto table = ns.in([] { return conntrack::Table::open(); });
    std::vector<conntrack::Entry> out;
    const conntrack::Doomed all = [&](const auto& batch, auto&) {
      for (const auto& e : batch)
        if (e.orig.dst_port >= 10000) out.push_back(e);
    };
    const auto pass = runner.run(table->sweep(reader.executor(), all, 30s), "a walk");
    if (!pass) throw std::runtime_error(pass.error().what);
    return out;
  }
};

TEST(FelixFlowFaults, AnswersThatAreLostAreAskedForAgain) {
  NEEDS_NETNS();
  Rig r;
  ASSERT_EQ(r.sockets.size(), 2U);
  const int little = 1;  // the kernel makes it its least
  ASSERT_EQ(setsockopt(r.sockets[1], SOL_SOCKET, SO_RCVBUF, &little, sizeof little), 0);
  r.open(300);
  ASSERT_EQ(r.entries().size(), 300U) << "positive control";
  r.forget();
  EXPECT_TRUE(eventually("forgotten", [&] { return r.is_forgotten(); })) << r.counts().last_failure;
  EXPECT_EQ(r.entries().size(), 0U);
  const auto c = r.counts();
  EXPECT_GT(c.failures, 0U) << "nothing was lost: the test tests nothing";
  EXPECT_NE(c.last_failure.find("lost"), std::string::npos) << c.last_failure;
  EXPECT_GT(c.walks, 0U);
}

TEST(FelixFlowFaults, WithoutRightsItIsGivenUpAndSaid) {
  NEEDS_NETNS();
  for (const auto rights : {Rights::none_to_read, Rights::none_to_delete}) {
    SCOPED_TRACE(rights == Rights::none_to_read ? "reading" : "deleting");
    Rig r(rights);
    r.open(300);
    r.forget();
    // Its route waits for nothing longer: given up at once, not after the patience of 30 s.
    EXPECT_TRUE(eventually(
        "given up", [&] { return r.is_forgotten(); }, 20s))
        << r.counts().last_failure;
    const auto c = r.counts();
    EXPECT_EQ(c.failures, 1U);
    EXPECT_NE(c.last_failure.find("not permitted"), std::string::npos) << c.last_failure;
    EXPECT_EQ(r.entries().size(), 300U) << "established connections stay as they are";
  }
}

TEST(FelixFlowFaults, EntriesThatAreGoneAreNoError) {
  NEEDS_NETNS();
  Rig r;
  r.open(500);
  const auto all = r.entries();
  ASSERT_EQ(all.size(), 500U);
  auto table = r.ns.in([] { return conntrack::Table::open(); });
  ASSERT_TRUE(table);
  conntrack::Pass first, second;
  ASSERT_TRUE(table->remove(all, first));
  EXPECT_EQ(first.deleted, 500U);
  ASSERT_TRUE(table->remove(all, second));
  EXPECT_EQ(second.deleted, 0U);
  EXPECT_EQ(second.refused, 0U);
}

std::atomic<long> interrupted = 0;

/// Loops block signals; were one to get through, nothing would be lost by it.
TEST(FelixFlowFaults, SignalsInTheMiddleOfAWalk) {
  NEEDS_NETNS();
  Rig r;
  for (int i = 0; i < 4; ++i) r.open(5000);
  const auto before = r.entries().size();
  ASSERT_GE(before, 5000U);
  auto table = r.ns.in([] { return conntrack::Table::open(); });
  ASSERT_TRUE(table);
  LoopRunner runner;
  Loop reader("reader");
  reader.start();
  struct sigaction act {
  }, former{};
  act.sa_handler = [](int) { ++interrupted; };  // without SA_RESTART: calls come back with EINTR
  ASSERT_EQ(sigaction(SIGUSR1, &act, &former), 0);
  const auto let_in = [] {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
    return static_cast<int>(::syscall(SYS_gettid));
  };
  const int threads[] = {runner.loop().call(let_in), reader.call(let_in)};
  std::atomic<bool> stop = false;
  std::thread pest([&] {
    while (!stop)
      for (const int tid : threads) ::syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
  });
  const auto signals = eventually("signals", [] { return interrupted > 100; });
  const conntrack::Doomed all = [](const auto& batch, auto& out) { out.insert(out.end(), batch.begin(), batch.end()); };
  const auto pass = runner.run(table->sweep(reader.executor(), all, 30s), "a walk");
  stop = true;
  pest.join();
  runner.loop().call([] { return 0; });
  reader.call([] { return 0; });
  sigaction(SIGUSR1, &former, nullptr);
  EXPECT_TRUE(signals);
  ASSERT_TRUE(pass) << pass.error().what;
  EXPECT_EQ(pass->refused, 0U);
  EXPECT_GE(pass->deleted, before);
  EXPECT_EQ(r.entries().size(), 0U);
  std::printf("%zu connections, %ld signals\n", before, interrupted.load());
}

}  // namespace
}  // namespace calico::test
