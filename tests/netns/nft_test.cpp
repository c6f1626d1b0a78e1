// nf_tables batches against the kernel, compared with what `nft list ruleset` prints, and with traffic where meaning
// matters.
#include <gmock/gmock.h>

#include <boost/asio/io_context.hpp>

#include "core/netlink/rtnl.hpp"
#include "core/nft/connection.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::nft {
namespace {

using test::Netns;
using testing::HasSubstr;
using testing::Not;

Prefix prefix(const char* s) { return *Prefix::parse(s); }
Ip ip(const char* s) { return *Ip::parse(s); }
Mac mac(const char* s) { return *Mac::parse(s); }

const TableRef kTable{TableFamily::inet, "calico"};
const TableRef kArp{TableFamily::arp, "calico"};

struct NftTest : testing::Test {
  void SetUp() override {
    NEEDS_NETNS();
    ns.emplace("n");
    auto opened = ns->in([] { return Connection::open(); });
    ASSERT_TRUE(opened) << opened.error().what;
    nft.emplace(std::move(*opened));
  }
  /// Everything nft prints, rule hashes cut off and white space made one blank.
  std::string list(const std::string& what = "ruleset") const {
    std::string text = ns->run("nft -n list " + what), out;
    bool blank = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '#' && i + 17 < text.size() && text[i + 17] == '"') {
        i += 16;
        if (!out.empty() && out.back() == ' ') out.pop_back();
        blank = false;
        continue;
      }
      const bool space = text[i] == ' ' || text[i] == '\n' || text[i] == '\t';
      if (!space || !blank) out += space ? ' ' : text[i];
      blank = space;
    }
    return out;
  }
  void commit(const Batch& b) {
    auto done = nft->commit(b);
    if (done) return;
    ADD_FAILURE() << done.error().error.what;
    for (auto& f : done.error().faults) ADD_FAILURE() << f.what;
  }
  /// A table with a chain "c" in the given hook.
  void table(const TableRef& t, std::optional<BaseChain> base = {}) {
    Batch b;
    b.add(Table{.ref = t});
    b.add(Chain{.table = t, .name = "c", .base = base});
    commit(b);
  }
  /// The one rule of chain "c" as nft prints it.
  std::string printed(const Rule& r, const TableRef& t = kTable) {
    Batch b;
    b.flush(ChainRef{t, "c"});
    b.add(ChainRef{t, "c"}, r);
    commit(b);
    auto text = list(fmt::format("chain {} c", to_string(t)));
    auto begin = text.rfind("chain c { ");
    if (begin == std::string::npos) return text;
    begin += 10;
    if (auto policy = text.find("policy accept; ", begin); policy != std::string::npos) begin = policy + 15;
    auto end = text.find(" comment \"", begin);
    if (end == std::string::npos) end = text.find(" } }", begin);
    return text.substr(begin, end - begin);
  }
  std::optional<Netns> ns;
  std::optional<Connection> nft;
};

TEST_F(NftTest, RulesPrintAsNftWouldHaveWrittenThem) {
  table(kTable, BaseChain{.hook = Hook::prerouting, .priority = -300});
  Batch b;
  b.add(Set{.table = kTable, .name = "src_ok", .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr}});
  b.add(Set{.table = kTable,
            .name = "svc",
            .key = {Type::ipv4_addr, Type::inet_proto, Type::inet_service},
            .interval = true});
  b.add(Set{.table = kTable, .name = "ports", .key = {Type::inet_service}});
  b.add(Set{.table = kTable, .name = "nets6", .key = {Type::ipv6_addr}, .interval = true});
  b.add(Set{.table = kTable, .name = "class", .key = {Type::devgroup}, .data = Type::verdict});
  b.add(Set{.table = kTable, .name = "icmp6", .key = {Type::icmpv6_type}});
  b.add(Set{.table = kTable, .name = "nd", .key = {Type::ifname, Type::ipv6_addr}});
  b.add(Set{.table = kTable, .name = "pairs", .key = {Type::icmp_type, Type::icmp_code}});
  b.add(Chain{.table = kTable, .name = "other"});
  commit(b);
  const std::pair<Rule, const char*> cases[] = {
      {Rule().iifname("tap*").drop(), "iifname \"tap*\" drop"},
      {Rule().oifname("eth0").accept(), "oifname \"eth0\" accept"},
      {Rule().iifname("tap*", true).return_(), "iifname != \"tap*\" return"},
      {Rule().iifgroup(4711).accept(), "iifgroup 4711 accept"},
      {Rule().iifgroup(0x0c000000, 0xff000000).accept(), "iifgroup 201326592/8 accept"},
      {Rule().oifgroup(7).jump("other"), "oifgroup 7 jump other"},
      {Rule().goto_("other"), "goto other"},
      {Rule().family(Family::v6).drop(), "meta nfproto 10 drop"},
      {Rule().l4proto(17).drop(), "meta l4proto 17 drop"},
      {Rule().mark(5).accept(), "meta mark 0x00000005 accept"},
      {Rule().mark(1, 0xff).accept(), "meta mark & 0x000000ff == 0x00000001 accept"},
      {Rule().saddr(prefix("10.0.0.0/24")).accept(), "ip saddr 10.0.0.0/24 accept"},
      {Rule().saddr(prefix("10.0.0.1")).accept(), "ip saddr 10.0.0.1 accept"},
      {Rule().daddr(prefix("10.0.0.0/9"), true).drop(), "ip daddr != 10.0.0.0/9 drop"},
      {Rule().saddr(prefix("fe80::/10")).accept(), "ip6 saddr fe80::/10 accept"},
      {Rule().daddr(prefix("0.0.0.0/0")).drop(), "meta nfproto 2 drop"},
      {Rule().daddr(prefix("ff02::1")).accept(), "ip6 daddr ff02::1 accept"},
      {Rule().match(Field::ether_saddr, Value::mac(mac("02:00:00:00:00:01"))).drop(),
       "ether saddr 02:00:00:00:00:01 drop"},
      {Rule().tcp_dport(22).accept(), "tcp dport 22 accept"},
      {Rule().tcp_dport(80, 90).accept(), "tcp dport 80-90 accept"},
      {Rule().tcp_flags(0, kTcpSyn).accept(), "tcp flags ! 0x2 accept"},
      {Rule().tcp_flags(2, 18).accept(), "tcp flags 0x2 / 0x2,0x10 accept"},
      {Rule().range(Field::tcp_dport, Value::be16(80), Value::be16(90), true).drop(), "tcp dport != 80-90 drop"},
      {Rule().udp_sport(68).udp_dport(67).accept(), "udp sport 68 udp dport 67 accept"},
      {Rule().icmp_type(8).icmp_code(0).accept(), "icmp type 8 icmp code 0 accept"},
      {Rule().icmpv6_type(135).accept(), "icmpv6 type 135 accept"},
      {Rule().ct_state(kEstablished | kRelated).accept(), "ct state 0x2,0x4 accept"},
      {Rule().ct_state(kInvalid).drop(), "ct state 0x1 drop"},
      {Rule().in({Field::ip_saddr, Field::l4proto, Field::th_dport}, "svc").accept(),
       "ip saddr . meta l4proto . th dport @svc accept"},
      {Rule().in({Field::tcp_dport}, "ports").accept(), "tcp dport @ports accept"},
      {Rule().not_in({Field::ip6_saddr}, "nets6").drop(), "ip6 saddr != @nets6 drop"},
      {Rule().in({Field::icmpv6_type}, "icmp6").accept(), "icmpv6 type @icmp6 accept"},
      {Rule().in({Field::icmp_type, Field::icmp_code}, "pairs").accept(), "icmp type . icmp code @pairs accept"},
      {Rule().vmap({Field::iifgroup}, "class"), "iifgroup vmap @class"},
      {Rule().no_reverse_path().drop(), "fib saddr . iif oif 0 drop"},
      {Rule().daddr_is_local().accept(), "fib daddr type 2 accept"},
      {Rule().counter().drop(), "counter packets 0 bytes 0 drop"},
      {Rule().log("spoof: ").drop(), "log prefix \"spoof: \" drop"},
      {Rule().log("x", 3), "log prefix \"x\" group 3"},
      {Rule().limit(10).log("slow"), "limit rate 10/second log prefix \"slow\""},
      {Rule().set_mark(5), "meta mark set 0x00000005"},
      {Rule().set_mark(0x10000, 0x10000), "meta mark set meta mark | 0x00010000"},
      {Rule().set_mark(0, 0x10000), "meta mark set meta mark & 0xfffeffff"},
      {Rule().notrack(), "notrack"},
      {Rule().l4proto(6).match(Field::th_dport, Value::be16(22)).accept(), "tcp dport 22 accept"},
  };
  for (auto& [rule, want] : cases) EXPECT_EQ(printed(rule), want);
  // The family is checked by nfproto, which nft prints when a link layer field stands beside it.
  EXPECT_THAT(printed(Rule()
                          .iifname("tap*")
                          .not_in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src_ok")
                          .counter()
                          .drop()),
              HasSubstr("iifname . ether saddr . ip saddr != @src_ok counter packets 0 bytes 0 drop"));
  EXPECT_THAT(printed(Rule().icmpv6_type(136).not_in({Field::iifname, Field::nd_target}, "nd").drop()),
              HasSubstr("@nd drop"));
}

TEST_F(NftTest, ActionsThatNeedTheirHook) {
  table(kTable, BaseChain{.type = "nat", .hook = Hook::prerouting, .priority = -100});
  Batch b;
  b.add(Set{.table = kTable, .name = "fip", .key = {Type::ipv4_addr}, .data = Type::ipv4_addr});
  commit(b);
  EXPECT_EQ(printed(Rule().tcp_dport(80).dnat(ip("10.0.0.1"), 8775)), "tcp dport 80 dnat ip to 10.0.0.1:8775");
  EXPECT_EQ(printed(Rule().tcp_dport(80).redirect(8775)), "tcp dport 80 redirect to :8775");
  EXPECT_EQ(printed(Rule().dnat_map(Field::ip_daddr, "fip", Family::v4)), "dnat ip to ip daddr map @fip");
  EXPECT_EQ(printed(Rule().daddr(prefix("fd00::1")).dnat(ip("fd00::2"))), "ip6 daddr fd00::1 dnat ip6 to fd00::2");
  const TableRef post{TableFamily::inet, "post"};
  table(post, BaseChain{.type = "nat", .hook = Hook::postrouting, .priority = 100});
  EXPECT_EQ(printed(Rule().masquerade(), post), "masquerade");
  EXPECT_EQ(printed(Rule().snat(ip("192.0.2.1")), post), "snat ip to 192.0.2.1");
  const TableRef fwd{TableFamily::inet, "through"};
  table(fwd, BaseChain{.hook = Hook::forward});
  EXPECT_EQ(printed(Rule().reject(Reject::tcp_reset), fwd), "meta l4proto 6 reject with tcp reset");
  EXPECT_EQ(printed(Rule().reject(Reject::port_unreachable), fwd), "reject");
  EXPECT_EQ(printed(Rule().reject(Reject::admin_prohibited), fwd), "reject with icmpx 3");
}

TEST_F(NftTest, ArpRules) {
  table(kArp, BaseChain{.hook = kArpInput});
  Batch b;
  b.add(Set{.table = kArp, .name = "ok", .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr}});
  commit(b);
  const Rule r = Rule(TableFamily::arp)
                     .iifname("tap*")
                     .not_in({Field::iifname, Field::arp_saddr_ether, Field::arp_saddr_ip}, "ok")
                     .drop();
  EXPECT_EQ(printed(r, kArp), "iifname \"tap*\" iifname . arp saddr ether . arp saddr ip != @ok drop");
  EXPECT_EQ(
      printed(Rule(TableFamily::arp).arp_operation(2).match(Field::arp_saddr_ip, prefix("10.0.0.1")).drop(), kArp),
      "arp operation 2 arp saddr ip 10.0.0.1 drop");
}

TEST_F(NftTest, SetsPrintWithTheirTypesAndElements) {
  Batch b;
  b.add(Table{.ref = kTable, .comment = "calico 1"});
  b.add(Chain{.table = kTable, .name = "web", .comment = "class of web"});
  const Set spoof{.table = kTable,
                  .name = "src_ok",
                  .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr},
                  .comment = "who may send what"};
  const Set nets{.table = kTable, .name = "nets", .key = {Type::ipv4_addr}, .interval = true};
  const Set nets6{.table = kTable, .name = "nets6", .key = {Type::ipv6_addr}, .interval = true};
  const Set svc{
      .table = kTable, .name = "svc", .key = {Type::ipv4_addr, Type::inet_proto, Type::inet_service}, .interval = true};
  const Set cls{.table = kTable, .name = "class", .key = {Type::devgroup}, .data = Type::verdict};
  const Set fip{.table = kTable, .name = "fip", .key = {Type::ipv4_addr}, .data = Type::ipv4_addr};
  const Set tap{.table = kTable, .name = "tap", .key = {Type::ifname}, .data = Type::mark};
  const Set ports{.table = kTable, .name = "ports", .key = {Type::inet_service}, .size = 100};
  const Set range{.table = kTable, .name = "range", .key = {Type::inet_service}, .interval = true};
  const Set pair{.table = kTable, .name = "pair", .key = {Type::ipv4_addr, Type::ipv4_addr}, .data = Type::ipv4_addr};
  const Set limits{.table = kTable, .name = "limits", .key = {Type::ifname}, .dynamic = true};
  const Set bytes{.table = kTable, .name = "bytes", .key = {Type::ifname}, .dynamic = true};
  const Set many{.table = kTable, .name = "many", .key = {Type::ifname}, .dynamic = true};
  for (const Set* s : {&spoof, &nets, &nets6, &svc, &cls, &fip, &tap, &ports, &range, &pair, &limits, &bytes, &many})
    b.add(*s);
  const std::vector<Element> spoof_e = {
      element(Key().ifname("tap1").ether(mac("fa:16:3e:00:00:01")).ip(ip("10.65.0.2")))};
  const std::vector<Element> nets_e = {interval(prefix("10.0.0.0/8")), interval(prefix("11.0.0.0/8")),
                                       interval(Value::ip(ip("192.168.0.5")), Value::ip(ip("255.255.255.255")))};
  const std::vector<Element> nets6_e = {interval(prefix("fd00::/8")), interval(prefix("2001:db8::1/128"))};
  const std::vector<Element> svc_e = {
      interval(Key().ip(ip("10.0.0.0")).proto(6).port(80), Key().ip(ip("10.255.255.255")).proto(6).port(90)),
      interval(Key().ip(ip("0.0.0.0")).proto(17).port(53), Key().ip(ip("255.255.255.255")).proto(17).port(53))};
  const std::vector<Element> cls_e = {element(Key().devgroup(1000), Verdict::jump("web")),
                                      element(Key().devgroup(1001), Verdict::accept())};
  const std::vector<Element> fip_e = {{Value::ip(ip("192.0.2.1")), {}, {}, Value::ip(ip("10.65.0.2")), "vm 1"}};
  const std::vector<Element> tap_e = {{Value::ifname("tap1"), {}, {}, Value::host32(7), {}}};
  const std::vector<Element> ports_e = {element(Key().port(22)), element(Key().port(80))};
  const std::vector<Element> range_e = {interval(Key().port(0), Key().port(1023)),
                                        interval(Key().port(65535), Key().port(65535))};
  const std::vector<Element> pair_e = {
      {Key().ip(ip("10.65.0.2")).ip(ip("10.65.0.2")), {}, {}, Value::ip(ip("192.0.2.1")), {}}};
  const auto limited = [](Limit::Unit unit, std::uint64_t rate, std::uint32_t burst) {
    auto e = element(Key().ifname("tap1"));
    e.limit = Limit{unit, rate, burst};
    return std::vector<Element>{e};
  };
  const auto limits_e = limited(Limit::Unit::packets, 10, 7);
  const auto bytes_e = limited(Limit::Unit::bytes, 5'000'000'000, 65'537);
  const auto many_e = limited(Limit::Unit::connections, 4'294'967'295, 0);
  const std::pair<const Set*, const std::vector<Element>*> all[] = {
      {&pair, &pair_e}, {&limits, &limits_e}, {&bytes, &bytes_e}, {&many, &many_e}, {&spoof, &spoof_e},
      {&nets, &nets_e}, {&nets6, &nets6_e},   {&svc, &svc_e},     {&cls, &cls_e},   {&fip, &fip_e},
      {&tap, &tap_e},   {&ports, &ports_e},   {&range, &range_e}};
  for (auto& [s, e] : all) b.add(*s, *e);
  commit(b);
  const auto text = list();
  EXPECT_THAT(text, HasSubstr("comment \"calico 1\""));
  EXPECT_THAT(text, HasSubstr("chain web { comment \"class of web\" }"));
  EXPECT_THAT(text,
              HasSubstr("set src_ok { type ifname . ether_addr . ipv4_addr comment \"who may send what\" elements = { "
                        "\"tap1\" . fa:16:3e:00:00:01 . 10.65.0.2 } }"));
  EXPECT_THAT(text, HasSubstr("set nets { type ipv4_addr flags interval elements = { 10.0.0.0/8, 11.0.0.0/8, "
                              "192.168.0.5-255.255.255.255 } }"));
  EXPECT_THAT(text, HasSubstr("set nets6 { type ipv6_addr flags interval elements = { 2001:db8::1, fd00::/8 } }"));
  EXPECT_THAT(text, HasSubstr("set svc { type ipv4_addr . inet_proto . inet_service flags interval elements = { "));
  EXPECT_THAT(text, HasSubstr("10.0.0.0/8 . 6 . 80-90"));
  EXPECT_THAT(text, HasSubstr("0.0.0.0/0 . 17 . 53"));
  EXPECT_THAT(text, HasSubstr("map class { type devgroup : verdict elements = { "));
  EXPECT_THAT(text, HasSubstr("1000 : jump web"));
  EXPECT_THAT(
      text, HasSubstr("map fip { type ipv4_addr : ipv4_addr elements = { 192.0.2.1 comment \"vm 1\" : 10.65.0.2 } }"));
  EXPECT_THAT(text, HasSubstr("elements = { 10.65.0.2 . 10.65.0.2 : 192.0.2.1 }"));
  EXPECT_THAT(text, HasSubstr("set limits { type ifname flags dynamic elements = { \"tap1\" limit rate over 10/second "
                              "burst 7 packets } }"));
  EXPECT_THAT(text, HasSubstr("\"tap1\" limit rate over 5000000000 bytes/second burst 65537 bytes }"));
  EXPECT_THAT(text, HasSubstr("\"tap1\" ct count over 4294967295 }"));
  EXPECT_THAT(text, HasSubstr("map tap { type ifname : mark elements = { \"tap1\" : 0x00000007 } }"));
  EXPECT_THAT(text, HasSubstr("set ports { type inet_service size 100 elements = { 22, 80 } }"));
  EXPECT_THAT(text, HasSubstr("set range { type inet_service flags interval elements = { 0-1023, 65535 } }"));

  // nft takes what it printed: the text is true, not only pretty.
  Netns other("copy");
  const auto copy = other.try_run_with("nft -f -", ns->run("nft list ruleset"));
  EXPECT_EQ(copy.status, 0) << copy.text;
  EXPECT_EQ(other.run("nft list ruleset"), ns->run("nft list ruleset"));

  // And so do we.
  auto sets = nft->sets(kTable);
  ASSERT_TRUE(sets);
  EXPECT_EQ(sets->size(), std::size(all));
  for (auto& [s, want] : all) {
    const auto it = std::find_if(sets->begin(), sets->end(), [&](auto& x) { return x.set.name == s->name; });
    ASSERT_NE(it, sets->end()) << s->name;
    EXPECT_TRUE(it->understood);
    EXPECT_EQ(it->set, *s) << s->name;
    auto have = nft->elements(*s);
    ASSERT_TRUE(have);
    EXPECT_THAT(*have, testing::UnorderedElementsAreArray(*want)) << s->name;
  }
  auto t = nft->table(kTable);
  ASSERT_TRUE(t);
  EXPECT_EQ(t->table.comment, "calico 1");

  // All of it can be taken out again, element by element.
  Batch gone;
  for (auto& [s, e] : all) gone.remove(*s, *e);
  commit(gone);
  for (auto& [s, e] : all) EXPECT_TRUE(nft->elements(*s)->empty()) << s->name;
}

TEST_F(NftTest, RangesAreExchangedInOneTransaction) {
  Batch b;
  b.add(Table{.ref = kTable});
  const Set nets{.table = kTable, .name = "nets", .key = {Type::ipv4_addr}, .interval = true};
  const Set boxes{.table = kTable, .name = "boxes", .key = {Type::ipv4_addr, Type::inet_service}, .interval = true};
  b.add(nets);
  b.add(boxes);
  const auto box = [](const char* from, const char* to, std::uint16_t p, std::uint16_t q) {
    return interval(Key().ip(ip(from)).port(p), Key().ip(ip(to)).port(q));
  };
  const std::vector<Element> old_nets = {interval(prefix("10.0.0.0/24")), interval(prefix("10.0.1.0/24")),
                                         interval(prefix("10.0.9.0/24"))};
  const std::vector<Element> old_boxes = {box("10.0.0.0", "10.0.0.255", 80, 90), box("10.0.1.0", "10.0.1.255", 80, 90)};
  b.add(nets, old_nets);
  b.add(boxes, old_boxes);
  commit(b);
  // Wider, narrower and shifted ones over the places of the old.
  const std::vector<Element> new_nets = {interval(prefix("10.0.0.0/23")), interval(prefix("10.0.9.128/25"))};
  const std::vector<Element> new_boxes = {box("10.0.0.0", "10.0.1.255", 85, 95), box("10.0.0.0", "10.0.0.255", 80, 84)};
  Batch change;
  change.remove(nets, old_nets);
  change.add(nets, new_nets);
  change.remove(boxes, old_boxes);
  change.add(boxes, new_boxes);
  commit(change);
  EXPECT_THAT(*nft->elements(nets), testing::UnorderedElementsAreArray(new_nets));
  EXPECT_THAT(*nft->elements(boxes), testing::UnorderedElementsAreArray(new_boxes));
}

TEST_F(NftTest, ARestartedDaemonKnowsItsRules) {
  table(kTable, BaseChain{.hook = Hook::forward});
  const std::vector<Rule> rules = {Rule().ct_state(kEstablished).accept().comment("known flows"),
                                   Rule().tcp_dport(22).accept(), Rule().counter().drop().comment("rest")};
  Batch b;
  for (auto& r : rules) b.add(ChainRef{kTable, "c"}, r);
  commit(b);
  auto have = nft->rules(kTable);
  ASSERT_TRUE(have);
  ASSERT_EQ(have->size(), rules.size());
  for (std::size_t i = 0; i < rules.size(); ++i) {
    EXPECT_EQ((*have)[i].comment, rules[i].identity());
    EXPECT_EQ((*have)[i].chain, "c");
    EXPECT_NE((*have)[i].handle, 0U);
  }
  EXPECT_NE(Rule().tcp_dport(22).accept().identity(), Rule().tcp_dport(23).accept().identity());
  auto chains = nft->chains(kTable);
  ASSERT_TRUE(chains);
  ASSERT_EQ(chains->size(), 1U);
  EXPECT_EQ(chains->front().chain, (Chain{kTable, "c", BaseChain{.hook = Hook::forward}, ""}));
  // By handle: replace the second, remove the third.
  Batch change;
  change.replace(ChainRef{kTable, "c"}, (*have)[1].handle, Rule().tcp_dport(2222).accept());
  change.remove_rule(ChainRef{kTable, "c"}, (*have)[2].handle);
  change.insert(ChainRef{kTable, "c"}, Rule().iifname("lo").accept());
  commit(change);
  EXPECT_THAT(list(),
              HasSubstr("iifname \"lo\" accept comment \"\" ct state 0x2 accept comment \"known flows\" tcp dport 2222 "
                        "accept comment \"\" }"));
}

TEST_F(NftTest, ABatchThatFailsLeavesNothing) {
  ns->run("nft add table ip foreign; nft add chain ip foreign c; nft add rule ip foreign c counter");
  const auto before = list();
  const auto generation = *nft->generation();
  Batch b;
  b.add(Table{.ref = kTable});
  b.add(Chain{.table = kTable, .name = "c"});
  const Set s{.table = kTable, .name = "s", .key = {Type::ipv4_addr}};
  b.add(s);
  const std::vector<Element> e = {element(Value::ip(ip("10.0.0.1")))};
  b.add(s, e);
  const auto bad = b.add(ChainRef{kTable, "c"}, Rule().in({Field::ip_saddr}, "no_such_set").drop());
  const auto worse = b.add(ChainRef{kTable, "c"}, Rule().jump("no_such_chain"));
  b.add(ChainRef{kTable, "c"}, Rule().drop());
  auto done = nft->commit(b);
  ASSERT_FALSE(done);
  ASSERT_EQ(done.error().faults.size(), 2U);
  EXPECT_EQ(done.error().faults[0].op, bad);
  EXPECT_EQ(done.error().faults[0].error, ENOENT);
  EXPECT_THAT(done.error().faults[0].what, HasSubstr("rule in inet calico c"));
  EXPECT_EQ(done.error().faults[1].op, worse);
  EXPECT_EQ(done.error().error.code, Errc::not_found);
  EXPECT_EQ(list(), before);
  EXPECT_EQ(*nft->generation(), generation);
  EXPECT_EQ(nft->table(kTable).error().code, Errc::not_found);
}

TEST_F(NftTest, FaultsOfAnElementAreNamed) {
  Batch b;
  b.add(Table{.ref = kTable});
  const Set s{
      .table = kTable, .name = "svc", .key = {Type::ipv4_addr, Type::inet_proto, Type::inet_service}, .interval = true};
  b.add(s);
  const std::vector<Element> e = {
      interval(Key().ip(ip("10.0.0.0")).proto(6).port(80), Key().ip(ip("10.255.255.255")).proto(6).port(90)),
      interval(Key().ip(ip("11.0.0.0")).proto(6).port(80), Key().ip(ip("11.255.255.255")).proto(6).port(90)),
      interval(Key().ip(ip("10.1.0.0")).proto(6).port(85), Key().ip(ip("10.1.255.255")).proto(6).port(95))};
  const auto op = b.add(s, e);
  auto done = nft->commit(b);
  ASSERT_FALSE(done) << "overlapping boxes";
  ASSERT_FALSE(done.error().faults.empty());
  EXPECT_EQ(done.error().faults[0].op, op);
  EXPECT_EQ(done.error().faults[0].element, 2U);
  EXPECT_EQ(done.error().error.code, Errc::exists);
  EXPECT_THAT(done.error().error.what, HasSubstr("inet calico svc, element 2"));
  EXPECT_THAT(done.error().error.what, HasSubstr("overlaps"));

  // The same in a plain interval set, behind a first message of 3000 elements.
  Batch big;
  big.add(Table{.ref = kTable});
  const Set nets{.table = kTable, .name = "nets", .key = {Type::ipv4_addr}, .interval = true};
  big.add(nets);
  std::vector<Element> many;
  for (std::uint32_t i = 0; i < 3000; ++i) many.push_back(interval(Prefix{Ip::v4(0x0a000000 + (i << 8U)), 24}));
  many.push_back(interval(Value::ip(ip("10.0.1.128")), Value::ip(ip("10.0.2.5"))));
  big.add(nets, many);
  done = nft->commit(big);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().faults[0].element, 3000U) << done.error().error.what;

  // What cannot be sent at all is told before anything is.
  Batch wrong;
  wrong.add(Table{.ref = kTable});
  const Set plain{.table = kTable, .name = "p", .key = {Type::inet_service}};
  wrong.add(plain);
  const std::vector<Element> short_key = {element(Key().port(1)), element(Value::u8(1))};
  wrong.add(plain, short_key);
  wrong.add(Set{.table = kTable, .name = "g", .key = {Type::devgroup}, .interval = true});
  wrong.add(ChainRef{kTable, "c"}, Rule().iifname("a-name-that-is-too-long").drop());
  done = nft->commit(wrong);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().error.code, Errc::invalid);
  EXPECT_EQ(done.error().faults.size(), 3U);
  EXPECT_THAT(done.error().error.what, HasSubstr("element 1: the key has 1 bytes, the set's 2 (and 2 more)"));
  EXPECT_EQ(list(), "");
}

TEST_F(NftTest, ForeignTablesAreUntouched) {
  ns->run(
      "nft -f - <<'X'\ntable inet other { set s { type ipv4_addr; elements = { 1.2.3.4 } }\n"
      "chain c { type filter hook forward priority 0; ip saddr @s counter drop; }\n}\nX");
  const auto before = list("table inet other");
  table(kTable, BaseChain{.hook = Hook::forward});
  Batch b;
  b.remove_if_there(kTable);
  b.remove_if_there(TableRef{TableFamily::inet, "never-there"});
  commit(b);
  EXPECT_EQ(list(), before);
  EXPECT_EQ(nft->tables()->size(), 1U);
}

TEST_F(NftTest, AnOwnedTableSurvivesAFlushAndIsAdopted) {
  if (!nft->can_persist()) GTEST_SKIP() << "SKIPPED, this kernel has no OWNER with PERSIST (Linux 6.9)";
  EXPECT_EQ(list(), "") << "the probe leaves nothing";
  const Table owned{.ref = kTable, .owner = true, .persist = true};
  Batch b;
  b.add(owned);
  b.add(Chain{.table = kTable, .name = "c", .base = BaseChain{.hook = Hook::forward}});
  b.add(ChainRef{kTable, "c"}, Rule().counter());
  commit(b);
  ns->run("nft add table ip foreign");
  ns->run("nft flush ruleset");
  EXPECT_THAT(list(), HasSubstr("table inet calico"));
  EXPECT_THAT(list(), Not(HasSubstr("foreign")));
  EXPECT_EQ(nft->table(kTable)->owner_port, nft->port());
  EXPECT_NE(ns->try_run("nft add rule inet calico c drop").status, 0);
  auto second = ns->in([] { return Connection::open(); });
  ASSERT_TRUE(second);
  Batch intruder;
  intruder.add(ChainRef{kTable, "c"}, Rule().drop());
  auto refused = second->commit(intruder);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.code, Errc::no_permission) << refused.error().error.what;
  // The owner dies: the table stays, and the next process takes it over with what is in it.
  nft.reset();
  EXPECT_THAT(list(), HasSubstr("counter packets"));
  Batch adopt;
  adopt.add(owned);
  adopt.add(ChainRef{kTable, "c"}, Rule().drop());
  auto adopted = second->commit(adopt);
  EXPECT_TRUE(adopted) << adopted.error().error.what;
  EXPECT_EQ(second->table(kTable)->owner_port, second->port());
  EXPECT_EQ(second->rules(kTable)->size(), 2U);
  // Plain to owner: the same name new, in one batch.
  const TableRef plain{TableFamily::inet, "plain"};
  Batch make;
  make.add(Table{.ref = plain});
  ASSERT_TRUE(second->commit(make));
  Batch turn;
  turn.remove(plain);
  turn.add(Table{.ref = plain, .owner = true, .persist = true});
  auto turned = second->commit(turn);
  EXPECT_TRUE(turned) << turned.error().error.what;
  EXPECT_EQ(second->table(plain)->owner_port, second->port());
  EXPECT_FALSE(nft.has_value());
}

TEST_F(NftTest, OwnerAloneIsRefused) {
  Batch b;
  b.add(Table{.ref = kTable, .owner = true});
  auto done = nft->commit(b);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().error.code, Errc::invalid);
}

TEST_F(NftTest, MonitorTellsOthersTransactions) {
  boost::asio::io_context io;
  std::vector<Generation> generations;
  std::vector<std::pair<std::string, bool>> tables;
  std::vector<bool> changes;
  MonitorHandlers h;
  h.on_change = [&](const TableRef& t, std::uint32_t port) {
    EXPECT_EQ(t, kTable);
    changes.push_back(port == nft->port());
  };
  h.on_generation = [&](const Generation& g) { generations.push_back(g); };
  h.on_table = [&](const TableRef& t, bool gone) { tables.emplace_back(to_string(t), gone); };
  auto m = ns->in([&] { return Monitor::open(io.get_executor(), h); });
  ASSERT_TRUE(m);
  m->start();
  table(kTable);
  ns->run("nft flush ruleset");
  for (int i = 0; i < 3000 && (tables.size() < 2 || generations.size() < 2); ++i)
    io.restart(), io.run_one_for(std::chrono::milliseconds(10));
  ASSERT_EQ(tables.size(), 2U);
  EXPECT_EQ(tables[0], std::pair(std::string("inet calico"), false));
  EXPECT_EQ(tables[1], std::pair(std::string("inet calico"), true));
  EXPECT_EQ(changes, std::vector({true, true, false, false})) << "a table and a chain, made by us, removed by another";
  ASSERT_EQ(generations.size(), 2U);
  EXPECT_EQ(generations[0].pid, static_cast<std::uint32_t>(getpid()));
  EXPECT_EQ(generations[1].process, "nft");
  EXPECT_EQ(generations[1].id, *nft->generation());
}

TEST_F(NftTest, TenThousandEndpoints) {
  Batch b;
  b.add(Table{.ref = kTable});
  b.add(Chain{.table = kTable, .name = "c", .base = BaseChain{.hook = Hook::prerouting, .priority = -300}});
  const Set s{.table = kTable, .name = "src_ok", .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr}};
  b.add(s);
  b.add(ChainRef{kTable, "c"}, Rule().not_in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src_ok").drop());
  std::vector<Element> e;
  for (std::uint32_t i = 0; i < 10000; ++i) {
    Mac m = mac("fa:16:3e:00:00:00");
    m.b[4] = static_cast<std::uint8_t>(i >> 8U), m.b[5] = static_cast<std::uint8_t>(i);
    e.push_back(element(Key().ifname(fmt::format("tap{:08x}", i)).ether(m).ip(Ip::v4(0x0a410000 + i))));
  }
  using ms = std::chrono::duration<double, std::milli>;
  const auto t0 = std::chrono::steady_clock::now();
  b.add(s, e);
  const auto t1 = std::chrono::steady_clock::now();
  commit(b);
  const auto t2 = std::chrono::steady_clock::now();
  auto have = nft->elements(s);
  const auto t3 = std::chrono::steady_clock::now();
  ASSERT_TRUE(have);
  EXPECT_EQ(have->size(), e.size());
  Batch one;
  const std::vector<Element> fresh = {
      element(Key().ifname("tapnew").ether(mac("fa:16:3e:ff:00:00")).ip(ip("10.9.9.9")))};
  one.add(s, fresh);
  const auto t4 = std::chrono::steady_clock::now();
  commit(one);
  const auto t5 = std::chrono::steady_clock::now();
  std::printf("  10,000 elements: %.1f ms to encode, %.1f ms to commit, %.1f ms to read back; one more: %.3f ms\n",
              ms(t1 - t0).count(), ms(t2 - t1).count(), ms(t3 - t2).count(), ms(t5 - t4).count());
}

// ---- traffic: a VM's namespace - veth - the host's namespace ----

struct TrafficTest : NftTest {
  void SetUp() override {
    NftTest::SetUp();
    if (IsSkipped()) return;
    vm.emplace("vm");
    far.emplace("far");
    test::veth(*ns, "tap1", *vm, "eth0");
    test::veth(*ns, "up0", *far, "eth0");
    ns->run(
        "ip link set tap1 address ee:ee:ee:ee:ee:ee; ip addr add 169.254.1.1/32 dev tap1; ip addr add 192.0.2.1/24 dev "
        "up0;"
        "ip route add 10.65.0.2/32 dev tap1; ip neigh replace 10.65.0.2 lladdr fa:16:3e:00:00:01 dev tap1 nud "
        "permanent;"
        "sysctl -qw net.ipv4.ip_forward=1");
    vm->run(
        "ip link set eth0 address fa:16:3e:00:00:01; ip addr add 10.65.0.2/32 dev eth0;"
        "ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1 src 10.65.0.2");
    far->run("ip addr add 192.0.2.9/24 dev eth0; ip route add default via 192.0.2.1");
  }
  bool ping(const Netns& from, const std::string& options, const std::string& to) {
    return from.try_run("ping -n -c 1 -W 1 " + options + " " + to).status == 0;
  }
  std::optional<Netns> vm, far;
};

TEST_F(TrafficTest, SourceAddressAndMacAreHeld) {
  ASSERT_TRUE(ping(*vm, "", "192.0.2.9")) << "the set-up itself forwards";
  const Set s{.table = kTable, .name = "src_ok", .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr}};
  const std::vector<Element> own = {element(Key().ifname("tap1").ether(mac("fa:16:3e:00:00:01")).ip(ip("10.65.0.2")))};
  Batch b;
  b.add(Table{.ref = kTable});
  b.add(Chain{.table = kTable, .name = "c", .base = BaseChain{.hook = Hook::prerouting, .priority = -300}});
  b.add(s);
  b.add(s, own);
  b.add(
      ChainRef{kTable, "c"},
      Rule().iifname("tap*").not_in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src_ok").counter().drop());
  commit(b);
  EXPECT_TRUE(ping(*vm, "", "192.0.2.9")) << "its own address and MAC";
  vm->run("ip addr add 10.65.0.77/32 dev eth0");
  ns->run("ip route add 10.65.0.77/32 dev tap1");
  EXPECT_FALSE(ping(*vm, "-I 10.65.0.77", "192.0.2.9")) << "another address";
  vm->run(
      "ip link set eth0 down; ip link set eth0 address fa:16:3e:00:00:99; ip link set eth0 up;"
      "ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1 src 10.65.0.2");
  EXPECT_FALSE(ping(*vm, "", "192.0.2.9")) << "another MAC";
  const std::vector<Element> moved = {
      element(Key().ifname("tap1").ether(mac("fa:16:3e:00:00:99")).ip(ip("10.65.0.2")))};
  ns->run("ip neigh replace 10.65.0.2 lladdr fa:16:3e:00:00:99 dev tap1 nud permanent");
  Batch follow;
  follow.remove(s, own);
  follow.add(s, moved);
  commit(follow);
  EXPECT_TRUE(ping(*vm, "", "192.0.2.9")) << "the new MAC once it is the port's";
}

TEST_F(TrafficTest, ClassesBySetOfTheDeviceGroup) {
  const Set from{.table = kTable, .name = "from_class", .key = {Type::devgroup}, .data = Type::verdict};
  const Set svc{.table = kTable,
                .name = "web_out",
                .key = {Type::ipv4_addr, Type::inet_proto, Type::inet_service},
                .interval = true};
  Batch b;
  b.add(Table{.ref = kTable});
  b.add(Chain{.table = kTable, .name = "forward", .base = BaseChain{.hook = Hook::forward}});
  b.add(Chain{.table = kTable, .name = "web"});
  b.add(from);
  b.add(svc);
  const std::vector<Element> cls = {element(Key().devgroup(5000), Verdict::goto_("web"))};
  b.add(from, cls);
  const std::vector<Element> rules = {
      interval(Key().ip(ip("192.0.2.0")).proto(6).port(8000), Key().ip(ip("192.0.2.255")).proto(6).port(8099))};
  b.add(svc, rules);
  b.add(ChainRef{kTable, "forward"}, Rule().ct_state(kEstablished | kRelated).accept());
  b.add(ChainRef{kTable, "forward"}, Rule().vmap({Field::iifgroup}, "from_class"));
  b.add(ChainRef{kTable, "forward"}, Rule().iifname("tap*").drop());
  b.add(ChainRef{kTable, "web"}, Rule().in({Field::ip_daddr, Field::l4proto, Field::th_dport}, "web_out").accept());
  b.add(ChainRef{kTable, "web"}, Rule().drop());
  commit(b);
  auto server = [&](int port) {
    return far->spawn("exec /usr/bin/python3 -m http.server --bind 192.0.2.9 " + std::to_string(port));
  };
  auto in = server(8080);
  auto out = server(8181);
  for (int port : {8080, 8181})
    ASSERT_TRUE(test::eventually("a listener", [&] {
      return far->try_run("ss -Hltn sport = :" + std::to_string(port)).text.find("LISTEN") != std::string::npos;
    }));
  auto reaches = [&](int port) {
    return vm->try_run("timeout 1 /usr/bin/python3 -c \"import socket; socket.create_connection(('192.0.2.9'," +
                       std::to_string(port) + "),1)\"")
               .status == 0;
  };
  EXPECT_FALSE(reaches(8080)) << "a tap without a class is dropped";
  auto rtnl = ns->in([] { return netlink::Rtnl::open(); });
  ASSERT_TRUE(rtnl->one([&](netlink::Batch& x) { x.set_link_group(rtnl->link("tap1")->index, 5000); }));
  EXPECT_TRUE(reaches(8080)) << "in the class, inside the range of ports";
  EXPECT_FALSE(reaches(8181)) << "outside the range";
  EXPECT_FALSE(ping(*vm, "", "192.0.2.9")) << "another protocol";
  ASSERT_TRUE(rtnl->one([&](netlink::Batch& x) { x.set_link_group(rtnl->link("tap1")->index, 0); }));
  EXPECT_FALSE(reaches(8080)) << "out of the class again";
}

TEST_F(TrafficTest, ArpOfAnotherAddressIsDropped) {
  const Set ok{.table = kArp, .name = "ok", .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr}};
  Batch b;
  b.add(Table{.ref = kArp});
  b.add(Chain{.table = kArp, .name = "in", .base = BaseChain{.hook = kArpInput}});
  b.add(ok);
  const std::vector<Element> own = {element(Key().ifname("tap1").ether(mac("fa:16:3e:00:00:01")).ip(ip("10.65.0.2")))};
  b.add(ok, own);
  b.add(ChainRef{kArp, "in"}, Rule(TableFamily::arp)
                                  .iifname("tap*")
                                  .not_in({Field::iifname, Field::arp_saddr_ether, Field::arp_saddr_ip}, "ok")
                                  .counter()
                                  .drop());
  commit(b);
  vm->run("ip neigh flush dev eth0");
  EXPECT_TRUE(ping(*vm, "", "169.254.1.1")) << "ARP with its own address is answered";
  vm->run(
      "ip neigh flush dev eth0; ip addr add 10.65.0.77/32 dev eth0; ip route del 169.254.1.1 dev eth0 || true;"
      "ip route replace 169.254.1.1 dev eth0 src 10.65.0.77");
  EXPECT_FALSE(ping(*vm, "-I 10.65.0.77", "169.254.1.1")) << "ARP with another address";
  EXPECT_THAT(list(), Not(HasSubstr("counter packets 0 ")));
}

}  // namespace
}  // namespace calico::nft
