// Others change felix's tables, with an owner (they are refused) and without one (felix makes it good at the kernel's
// event). Packets flow all the time, and what passes in between is counted at the VM's interface.
#include "core/nft/connection.hpp"
#include "tests/netns/felix/bench.hpp"
#include "tests/netns/felix/flow.hpp"
#include "tests/netns/felix/kernel_state.hpp"
#include "tests/netns/felix/tally.hpp"

namespace calico::test {
namespace {

constexpr std::uint16_t kNever = 7082, kAlways = 7083;
const char* const kForgedMac = "fa:16:3e:00:00:77";

std::string udp_to(int port) {
  return fmt::format(R"({{"action":"Allow","protocol":17,"destination":{{"ports":[{}]}}}})", port);
}

struct Damage {
  const char* what;
  const char* command;
  bool opens;           ///< a packet that is refused may pass until it is repaired
  bool refused = true;  /// by the kernel when the tables have an owner
};
const Damage kDamages[] = {
    {"rules of all chains flushed", "nft flush table inet calico", true},
    {"table deleted", "nft delete table inet calico", true},
    {"every table deleted", "nft add table inet mine; nft flush ruleset", true, false},
    {"one chain flushed", "nft flush chain inet calico forward-to", true},
    {"one rule put first", "nft insert rule inet calico to-tap accept", true},
    {"made dormant", "nft add table inet calico '{ flags dormant; }'", true},
    {"a set emptied", "nft flush set inet calico src4", false},
    {"a class taken from the map", "nft flush map inet calico to", false},
    {"a chain of others'", "nft add chain inet calico mine '{ type filter hook forward priority 5; policy drop; }'",
     false},
};
const Damage kArpDamages[] = {
    {"ARP flushed", "nft flush table arp calico", true},
    {"ARP deleted", "nft delete table arp calico", true},
    {"ARP set emptied", "nft flush set arp calico arp-src", false},
};

struct Rig {
  Bench b;
  Vm a{1}, c{2};
  Words before;

  explicit Rig(bool own) {
    b.own_tables = own;
    b.group("open", R"({"action":"Allow"})");
    b.group("web", udp_to(kAlways));
    for (auto* vm : {&a, &c}) b.plug(*vm);
    b.endpoint(a, {"open"});
    b.endpoint(c, {"web"});
  }
  void start() {
    ASSERT_NO_FATAL_FAILURE(b.start());
    for (auto* vm : {&a, &c}) ASSERT_TRUE(b.up(*vm));
    ASSERT_TRUE(pings(b.host, c.ip)) << "neighbours are known";
    ASSERT_EQ(b.described().at("nft").at("owned").as_bool(), b.own_tables);
    before = kernel_words(b.host);
  }
  /// One that is allowed, one that is refused.
  std::vector<std::vector<std::uint8_t>> packets() {
    return {udp_frame(b, a, c.ip, kAlways), udp_frame(b, a, c.ip, kNever)};
  }
  testing::AssertionResult repaired() {
    std::string differs;
    auto r = eventually("the kernel as it was", [&] {
      differs = difference(before, kernel_words(b.host));
      return differs.empty();
    });
    if (!r) r << "\n" << differs;
    return r;
  }
};

double ms(std::chrono::steady_clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

TEST(FelixForeign, AnOwnedTableIsNobodyElses) {
  NEEDS_NETNS();
  Rig r(true);
  {
    auto probe = r.b.host.in([] { return nft::Connection::open(); });
    ASSERT_TRUE(probe);
    if (!probe->can_persist()) GTEST_SKIP() << "SKIPPED: this kernel has no table owners";
  }
  ASSERT_NO_FATAL_FAILURE(r.start());
  Tally tally(r.c.ns, "eth0");
  Sender sender(r.a.ns, r.packets());
  ASSERT_TRUE(eventually("what is allowed", [&] { return tally.count("udp4 7083") > 200; }));
  const auto each = [&](const Damage& d) {
    EXPECT_EQ(r.b.host.try_run(d.command).status != 0, d.refused) << d.what;
    ASSERT_TRUE(sender.goes_on());
  };
  for (const auto& d : kDamages) ASSERT_NO_FATAL_FAILURE(each(d));
  for (const auto& d : kArpDamages) ASSERT_NO_FATAL_FAILURE(each(d));
  EXPECT_EQ(difference(r.before, kernel_words(r.b.host)), "");
  EXPECT_EQ(tally.count("udp4 7082"), 0);
  EXPECT_EQ(tally.lost(), 0U);
  std::printf("%ld packets that are allowed arrived, none of those that are not\n", tally.count("udp4 7083"));
}

TEST(FelixForeign, APlainTableIsRepairedAtTheKernelsEvent) {
  NEEDS_NETNS();
  Rig r(false);
  ASSERT_NO_FATAL_FAILURE(r.start());
  for (const auto& d : kDamages) {
    SCOPED_TRACE(d.what);
    Tally tally(r.c.ns, "eth0");
    Sender sender(r.a.ns, r.packets());
    ASSERT_TRUE(eventually("what is allowed", [&] { return tally.count("udp4 7083") > 200; }));
    EXPECT_EQ(tally.count("udp4 7082"), 0) << "refused before";
    const auto began = std::chrono::steady_clock::now();
    const auto sent = sender.rounds.load();
    r.b.host.run(d.command);
    ASSERT_TRUE(r.repaired());
    const auto looked = std::chrono::steady_clock::now();
    const auto opened = tally.line("udp4 7082");
    if (opened.count)
      std::printf("%-28s open for %.2f ms: %ld packets that are refused passed; looked at after %.0f ms, %ld packets\n",
                  d.what, ms(opened.last - opened.first), opened.count, ms(looked - began), sender.rounds - sent);
    else
      std::printf("%-28s nothing that is refused passed; looked at after %.0f ms, %ld packets\n", d.what,
                  ms(looked - began), sender.rounds - sent);
    EXPECT_TRUE(d.opens || opened.count == 0);
    // Repaired means closed, for packets of the same flow as well; and open for what is allowed.
    tally.reset();
    ASSERT_TRUE(sender.goes_on(1000));
    ASSERT_TRUE(eventually("what is allowed", [&] { return tally.count("udp4 7083") > 500; }));
    EXPECT_EQ(tally.count("udp4 7082"), 0) << "refused after";
    EXPECT_EQ(tally.lost(), 0U);
  }
  EXPECT_EQ(r.b.fatal, "");
}

TEST(FelixForeign, PlainArpTablesAsWell) {
  NEEDS_NETNS();
  Rig r(false);
  ASSERT_NO_FATAL_FAILURE(r.start());
  for (const auto& d : kArpDamages) {
    SCOPED_TRACE(d.what);
    // Answers to a forged MAC go to it, and are seen on the wire all the same.
    Tally forged_seen(r.a.ns, "eth0");
    Sender sender(r.a.ns, {arp_frame(kForgedMac, r.a.ip, "10.65.0.1")});
    ASSERT_TRUE(sender.goes_on());
    EXPECT_EQ(forged_seen.count("arp"), 0) << "refused before";
    const auto began = std::chrono::steady_clock::now();
    r.b.host.run(d.command);
    ASSERT_TRUE(r.repaired());
    const auto opened = forged_seen.line("arp");
    std::printf("%-28s %ld forged questions were answered within %.2f ms; looked at after %.0f ms\n", d.what,
                opened.count, opened.count ? ms(opened.last - opened.first) : 0.0,
                ms(std::chrono::steady_clock::now() - began));
    EXPECT_TRUE(d.opens || opened.count == 0);
    forged_seen.reset();
    ASSERT_TRUE(sender.goes_on(1000));
    EXPECT_EQ(forged_seen.count("arp"), 0) << "refused after";
  }
  Tally own_seen(r.a.ns, "eth0");
  Sender sender(r.a.ns, {arp_frame(r.a.mac, r.a.ip, "10.65.0.1")});
  EXPECT_TRUE(eventually("answers to the own MAC", [&] { return own_seen.count("arp") > 0; }));
}

// Felix's loop stands still meanwhile, so that somebody gets in for sure.
TEST(FelixForeign, WhoeverCameInMeanwhileIsJudgedAgain) {
  NEEDS_NETNS();
  Rig r(false);
  Vm d(3);
  r.b.plug(d);
  ASSERT_NO_FATAL_FAILURE(r.start());
  const auto during = [&](const std::string& command, bool there, const std::function<void()>& then) {
    r.b.block = true;
    there ? r.b.endpoint(d, {"web"}) : r.b.gone(d);
    ASSERT_TRUE(eventually("the loop held", [&] { return r.b.blocked.load(); }));
    r.b.host.run(command);
    then();
    r.b.block = false;
    ASSERT_TRUE(eventually("refused again", [&] { return !reaches(r.a.ns, r.c.ip, 2223, 100); }));
  };
  auto control = listener(r.c.ns, 2223);
  std::unique_ptr<Flow> slipped;
  const auto slip = [&] {
    EXPECT_TRUE(reaches(r.a.ns, r.c.ip, 2223)) << "positive control: it is open";
    slipped = std::make_unique<Flow>(r.a.ns, r.c.ns, r.c.ip, 2222);
    EXPECT_TRUE(slipped->lives());
  };
  // The connection was tracked: it is cut, for both sides.
  ASSERT_NO_FATAL_FAILURE(during("nft insert rule inet calico to-tap accept", true, slip));
  EXPECT_TRUE(eventually("it is cut", [&] {
    return r.b.described().at("connections").at("cut").to_number<long>() > 0;
  })) << r.b.engine->endpoints_json();
  EXPECT_TRUE(slipped->dead());
  // Without any rule the kernel tracks nothing and leaves no entry to cut: whoever is refused gets nothing through.
  ASSERT_NO_FATAL_FAILURE(during("nft flush table inet calico", false, slip));
  EXPECT_FALSE(slipped->asks(500));
}

TEST(FelixForeign, OthersTablesAreTheirOwn) {
  NEEDS_NETNS();
  Rig r(false);
  ASSERT_NO_FATAL_FAILURE(r.start());
  const auto rereads = [&] {
    const auto text = r.b.metrics.text();
    const std::string name = "felix_dataplane_rereads{what=\"nftables\"} ";
    const auto at = text.find(name);
    return at == std::string::npos ? -1 : std::stoi(text.substr(at + name.size()));
  };
  const auto before = rereads();
  ASSERT_GE(before, 0) << r.b.metrics.text();
  r.b.host.run(
      "nft add table inet mine; nft add chain inet mine c; nft add rule inet mine c drop; nft delete table inet mine");
  // One of ours behind them, one message of the kernel's: it alone made felix look.
  r.b.host.run("nft add table inet calico '{ flags dormant; }'");
  ASSERT_TRUE(r.repaired());
  EXPECT_EQ(rereads(), before + 1);
}

}  // namespace
}  // namespace calico::test
