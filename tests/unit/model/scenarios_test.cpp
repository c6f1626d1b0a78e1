// Calico's calculation, scenario by scenario; how they are walked: scenarios.hpp.
#include "tests/unit/model/scenarios.hpp"

namespace calico::model::scenarios {
namespace {

// --- endpoints and policies ------------------------------------------------------------------------------------------

TEST(Scenarios, OneEndpointWithAPolicyThatComesAndChanges) {
  const auto e = endpoint(1, {{"a", "x"}});
  check({{to(1, "192.0.2.1", 80), to(1, "192.0.2.1", 81), from(1, "192.0.2.1", 80)},
         {{{e}, "1:\n192.0.2.1 > 1 tcp 80 no\n192.0.2.1 > 1 tcp 81 no\n1 > 192.0.2.1 tcp 80 no\n"},
          {{e, policy("p", "a == 'x'", {allow(6, {{80, 80}})})},
           "1: p\n192.0.2.1 > 1 tcp 80 yes\n192.0.2.1 > 1 tcp 81 no\n1 > 192.0.2.1 tcp 80 no\n"},
          {{e, policy("p", "a == 'x'", {allow(6, {{81, 81}})}, {.out = {kAll}})},
           "1: p\n192.0.2.1 > 1 tcp 80 no\n192.0.2.1 > 1 tcp 81 yes\n1 > 192.0.2.1 tcp 80 yes\n"},
          {{e, policy("p", "a == 'y'", {kAll})},
           "1:\n192.0.2.1 > 1 tcp 80 no\n192.0.2.1 > 1 tcp 81 no\n1 > 192.0.2.1 tcp 80 no\n"},
          {{endpoint(1, {{"a", "y"}}), policy("p", "a == 'y'", {kAll})},
           "1: p\n192.0.2.1 > 1 tcp 80 yes\n192.0.2.1 > 1 tcp 81 yes\n1 > 192.0.2.1 tcp 80 no\n"}}});
}

TEST(Scenarios, IngressOnlyAndEgressOnly) {
  const auto e = endpoint(1, {});
  const auto both = policy("b", "all()", {kAll}, {.out = {kAll}});
  check({{to(1, "192.0.2.1", 80), from(1, "192.0.2.1", 80)},
         {{{e, both}, "1: b\n192.0.2.1 > 1 tcp 80 yes\n1 > 192.0.2.1 tcp 80 yes\n"},
          {{e, both, policy("a", "all()", {kDeny}, {.egress = false, .out = {kDeny}})},
           "1: a b\n192.0.2.1 > 1 tcp 80 no\n1 > 192.0.2.1 tcp 80 yes\n"},
          {{e, both, policy("a", "all()", {kDeny}, {.ingress = false, .out = {kDeny}})},
           "1: a b\n192.0.2.1 > 1 tcp 80 yes\n1 > 192.0.2.1 tcp 80 no\n"}}});
}

// Without rules there is no chain that could come or go: the type alone decides whether the tier refuses.
TEST(Scenarios, TypesOfAPolicyWithoutRules) {
  const auto e = endpoint(1, {}, {.profiles = {"one"}});
  const Kv all{std::string(kProfiles) + "one", to_json("one", Profile{{}, {kAll}, {kAll}})};
  const auto line = [](const char* policies, bool in, bool out) {
    return fmt::format("1:{}\n192.0.2.1 > 1 tcp 80 {}\n1 > 192.0.2.1 tcp 80 {}\n", policies, in ? "yes" : "no",
                       out ? "yes" : "no");
  };
  check({{to(1, "192.0.2.1", 80), from(1, "192.0.2.1", 80)},
         {{{e, all, policy("p", "all()", {}, {.egress = false})}, line(" p", false, true)},
          {{e, all, policy("p", "all()", {}, {.ingress = false})}, line(" p", true, false)},
          {{e, all, policy("p", "all()", {})}, line(" p", false, false)},
          {{e, all}, line("", true, true)}}});
}

TEST(Scenarios, TwoEndpointsAndTheirAddresses) {
  const auto p = policy("p", "has(a)", {from_selector("has(a)")});
  const auto sel = "(" + kIn + "has(a))";
  check(
      {{to(1, "10.0.0.2", 80), to(1, "10.0.0.9", 80), to(2, "10.0.0.1", 80)},
       {{{endpoint(1, {{"a", ""}}), endpoint(2, {{"a", ""}}), p},
         "1: p\n2: p\n" + sel +
             " = 10.0.0.1 10.0.0.2\n10.0.0.2 > 1 tcp 80 yes\n10.0.0.9 > 1 tcp 80 no\n10.0.0.1 > 2 tcp 80 yes\n"},
        // Another address for the second, and one on another host.
        {{endpoint(1, {{"a", ""}}), endpoint(2, {{"a", ""}}, {.nets = {"10.0.0.9/32"}}), remote(3, {{"a", ""}}), p},
         "1: p\n2: p\n" + sel +
             " = 10.0.0.1 10.0.0.3 10.0.0.9\n10.0.0.2 > 1 tcp 80 no\n10.0.0.9 > 1 tcp 80 yes\n10.0.0.1 > 2 tcp 80 "
             "yes\n"},
        // Both have it: it stays when one goes.
        {{endpoint(1, {{"a", ""}}, {.nets = {"10.0.0.1/32", "10.0.0.2/32"}}), endpoint(2, {{"a", ""}}), p},
         "1: p\n2: p\n" + sel +
             " = 10.0.0.1 10.0.0.2\n10.0.0.2 > 1 tcp 80 yes\n10.0.0.9 > 1 tcp 80 no\n10.0.0.1 > 2 tcp 80 yes\n"},
        {{endpoint(1, {{"a", ""}}, {.nets = {"10.0.0.1/32", "10.0.0.2/32"}}), endpoint(2, {}), p},
         "1: p\n2:\n" + sel +
             " = 10.0.0.1 10.0.0.2\n10.0.0.2 > 1 tcp 80 yes\n10.0.0.9 > 1 tcp 80 no\n10.0.0.1 > 2 tcp 80 no\n"},
        {{endpoint(1, {{"a", ""}}), endpoint(2, {}), p},
         "1: p\n2:\n" + sel + " = 10.0.0.1\n10.0.0.2 > 1 tcp 80 no\n10.0.0.9 > 1 tcp 80 no\n10.0.0.1 > 2 tcp 80 no\n"},
        // A block among them, and gone again.
        {{endpoint(1, {{"a", ""}}, {.nets = {"10.0.0.1/32", "10.0.0.8/30"}}), endpoint(2, {{"a", ""}}), p},
         "1: p\n2: p\n" + sel +
             " = 10.0.0.1-10.0.0.2 10.0.0.8-10.0.0.11\n10.0.0.2 > 1 tcp 80 yes\n10.0.0.9 > 1 tcp 80 yes\n10.0.0.1 > 2 "
             "tcp 80 yes\n"}}});
}

TEST(Scenarios, TwoEndpointsWithOneInterface) {
  const auto p = policy("p", "all()", {kAll});
  auto second = endpoint(2, {});
  second.second.replace(second.second.find("tap2"), 4, "tap1");
  check(
      {{to(1, "192.0.2.1", 80), to(2, "192.0.2.1", 80)},
       {{{endpoint(1, {}), second, p}, "1: p\n2: !\n192.0.2.1 > 1 tcp 80 yes\n192.0.2.1 > 2 tcp 80 no\n"},
        {{second, p}, "2: p\n192.0.2.1 > 2 tcp 80 yes\n"},
        {{endpoint(1, {}), endpoint(2, {}), p}, "1: p\n2: p\n192.0.2.1 > 1 tcp 80 yes\n192.0.2.1 > 2 tcp 80 yes\n"}}});
}

TEST(Scenarios, OneInterfaceOfTwoOrchestrators) {
  // Workload and port have the same names: then the orchestrator's decides, not who came first.
  const auto p = policy("p", "all()", {kAll});
  const auto mine = endpoint(1, {});
  const Kv theirs{workload_endpoint_key("openstack", {"h", "other", "vm1", "p1"}), mine.second};
  check({{}, {{{mine, theirs, p}, "1: p\n1: !\n"}, {{theirs, p}, "1: p\n"}, {{theirs, mine, p}, "1: p\n1: !\n"}}});
}

TEST(Scenarios, NegatedSelectors) {
  const auto one = profile("one", {{"a", ""}});
  const EndpointOptions worn{.profiles = {"one"}};
  auto r = allow();
  r.source.not_selector = "has(a)";
  const auto p = policy("p", "!has(a)", {r}, {.ns = ""});
  const auto line = [](const std::string& members, bool second, bool outside) {
    return fmt::format("1: p\nhas(a) ={}\n10.0.0.2 > 1 tcp 80 {}\n192.0.2.1 > 1 tcp 80 {}\n", members,
                       second ? "yes" : "no", outside ? "yes" : "no");
  };
  check({{to(1, "10.0.0.2", 80), to(1, "192.0.2.1", 80)},
         {{{endpoint(1, {}), remote(2, {}), p}, line("", true, true)},
          {{endpoint(1, {}), remote(2, {{"a", ""}}), p}, line(" 10.0.0.2", false, true)},
          {{endpoint(1, {}), remote(2, {}, worn), one, p}, line(" 10.0.0.2", false, true)},
          {{endpoint(1, {}), remote(2, {}), net_set("s", {{"a", ""}}, {"192.0.2.0/24"}), p},
           line(" 192.0.2.0-192.0.2.255", true, false)},
          // The label that keeps the policy away is the profile's.
          {{endpoint(1, {}, worn), one, p}, "1:\n10.0.0.2 > 1 tcp 80 no\n192.0.2.1 > 1 tcp 80 no\n"},
          {{endpoint(1, {}, worn), p}, line("", true, true)}}});
}

TEST(Scenarios, NamespacesAreApart) {
  const auto mine = policy("p", "all()", {from_selector("has(a)")});
  const auto e = endpoint(1, {});
  check(
      {{to(1, "10.0.0.2", 80), to(1, "10.0.0.3", 80)},
       {{{e, remote(2, {{"a", ""}}), remote(3, {{"a", ""}}, {.ns = "other"}), mine},
         "1: p\n(" + kIn + "has(a)) = 10.0.0.2\n10.0.0.2 > 1 tcp 80 yes\n10.0.0.3 > 1 tcp 80 no\n"},
        {{e, remote(2, {{"a", ""}}), remote(3, {{"a", ""}}, {.ns = "other"}),
          policy("p", "all()", {from_selector("has(a)")}, {.ns = ""})},
         "1: p\nhas(a) = 10.0.0.2 10.0.0.3\n10.0.0.2 > 1 tcp 80 yes\n10.0.0.3 > 1 tcp 80 yes\n"},
        {{e, policy("p", "all()", {kAll}, {.ns = "other"})}, "1:\n10.0.0.2 > 1 tcp 80 no\n10.0.0.3 > 1 tcp 80 no\n"}}});
}

TEST(Scenarios, OrderOfPolicies) {
  const auto e = endpoint(1, {});
  const auto deny = [](std::optional<double> order, const std::string& name) {
    return policy(name, "all()", {kDeny}, {.order = order});
  };
  const auto pass = [](std::optional<double> order, const std::string& name) {
    return policy(name, "all()", {kAll}, {.order = order});
  };
  check({{to(1, "192.0.2.1", 80)},
         {{{e, pass(10, "a"), deny(20, "b")}, "1: a b\n192.0.2.1 > 1 tcp 80 yes\n"},
          {{e, pass(20, "a"), deny(10, "b")}, "1: b a\n192.0.2.1 > 1 tcp 80 no\n"},
          {{e, pass(10, "a"), deny(10, "b")}, "1: a b\n192.0.2.1 > 1 tcp 80 yes\n"},
          {{e, pass({}, "a"), deny({}, "b")}, "1: a b\n192.0.2.1 > 1 tcp 80 yes\n"},
          {{e, pass({}, "a"), deny(1000000, "b")}, "1: b a\n192.0.2.1 > 1 tcp 80 no\n"},
          {{e, pass(-1, "z"), deny(0, "b"), deny(0.5, "a")}, "1: z b a\n192.0.2.1 > 1 tcp 80 yes\n"}}});
}

// --- tiers -----------------------------------------------------------------------------------------------------------

TEST(Scenarios, OrderOfTiers) {
  const auto e = endpoint(1, {});
  const auto in = [](const std::string& name, const std::string& t, Rule r) {
    return policy(name, "all()", {std::move(r)}, {.tier = t});
  };
  const auto yes = "192.0.2.1 > 1 tcp 80 yes\n";
  const auto no = "192.0.2.1 > 1 tcp 80 no\n";
  const auto a = in("a", "one", kAll), b = in("b", "two", kDeny), c = in("c", "three", kDeny);
  check({{to(1, "192.0.2.1", 80)},
         {{{e, a, b, c, tier("one", 1), tier("two", 2), tier("three", 3)}, std::string("1: a b c\n") + yes},
          {{e, a, b, c, tier("one", 3), tier("two", 2), tier("three", 1)}, std::string("1: c b a\n") + no},
          {{e, a, b, c, tier("one", {}), tier("two", {}), tier("three", {})}, std::string("1: a c b\n") + yes},
          {{e, a, b, c, tier("two", 1000)}, std::string("1: b a c\n") + no},
          {{e, a, b, c}, std::string("1: a c b\n") + yes}}});
}

TEST(Scenarios, APolicyMovesBetweenTiers) {
  const auto e = endpoint(1, {});
  const auto deny = policy("d", "all()", {kDeny}, {.tier = "two"});
  const std::vector<Kv> tiers = {tier("one", 1), tier("two", 2), tier("three", 3)};
  const auto state = [&](const std::string& t, const std::string& means) {
    State s{{e, deny, policy("p", "all()", {kAll}, {.tier = t})}, means};
    for (const auto& kv : tiers) s.content.insert(kv);
    return s;
  };
  check({{to(1, "192.0.2.1", 80)},
         {state("one", "1: p d\n192.0.2.1 > 1 tcp 80 yes\n"), state("three", "1: d p\n192.0.2.1 > 1 tcp 80 no\n"),
          state("two", "1: d p\n192.0.2.1 > 1 tcp 80 no\n"), state("nowhere", "1: d p\n192.0.2.1 > 1 tcp 80 no\n")}});
}

TEST(Scenarios, TheEndOfATierAndPass) {
  const auto e = endpoint(1, {});
  const auto last = policy("z", "all()", {kAll});
  const auto first = [](std::vector<Rule> rules, bool egress = false) {
    return policy("a", "all()", std::move(rules), {.tier = "one", .egress = egress});
  };
  const auto http = allow(6, {{80, 80}});
  const auto line = [](bool p80, bool p81, const char* policies = "a z") {
    return fmt::format("1: {}\n192.0.2.1 > 1 tcp 80 {}\n192.0.2.1 > 1 tcp 81 {}\n", policies, p80 ? "yes" : "no",
                       p81 ? "yes" : "no");
  };
  check({{to(1, "192.0.2.1", 80), to(1, "192.0.2.1", 81)},
         {{{e, last, tier("one", 1), first({http})}, line(true, false)},
          {{e, last, tier("one", 1, true), first({http})}, line(true, true)},
          {{e, last, tier("one", 1), first({with(http, Action::pass)})}, line(true, false)},
          {{e, last, tier("one", 1, true), first({with(http, Action::deny)})}, line(false, true)},
          {{e, last, tier("one", 1), first({with(http, Action::deny), kPass})}, line(false, true)},
          {{e, tier("one", 1), first({kPass})}, line(false, false, "a")},
          // Only the other direction: no tier for this one.
          {{e, last, tier("one", 1), policy("a", "all()", {}, {.tier = "one", .ingress = false, .out = {kAll}})},
           line(true, true)}}});
}

TEST(Scenarios, UntrackedPoliciesAreForHostEndpoints) {
  const auto e = endpoint(1, {});
  const auto yes = policy("p", "all()", {kAll});
  check({{to(1, "192.0.2.1", 80)},
         {{{e, yes, policy("u", "all()", {kDeny}, {.order = 1, .ns = "", .do_not_track = true})},
           "1: p\n192.0.2.1 > 1 tcp 80 yes\n"},
          {{e, yes, policy("u", "all()", {kDeny}, {.order = 1, .ns = ""})}, "1: u p\n192.0.2.1 > 1 tcp 80 no\n"}}});
}

TEST(Scenarios, APolicyOfAHostEndpointChangesItsStage) {
  const auto e = host_endpoint("e"), star = host_endpoint("e", "*");
  const auto http = allow(6, {{80, 80}});
  const auto in = Direction::ingress, out = Direction::egress;
  const auto host = HostTraffic::local, through = HostTraffic::forwarded;
  const auto p = [](std::vector<Rule> rules, PolicyOptions o) {
    o.ns = "";
    return policy("p", "all()", std::move(rules), o);
  };
  const PolicyOptions normal{}, forward{.apply_on_forward = true};
  const PolicyOptions untracked{.out = {http}, .do_not_track = true, .apply_on_forward = true};
  const PolicyOptions early{.egress = false, .pre_dnat = true, .apply_on_forward = true};
  // In to 80 and 81, out to 80; through: in to 80 and 81, out to 80.
  const auto means = [](const std::string& first, const std::string& answers) {
    const char* texts[] = {"in host 80",    "in host 81",    "out host 80",
                           "in through 80", "in through 81", "out through 80"};
    std::string text = first + "\n";
    for (std::size_t i = 0; i < answers.size(); ++i)
      text += fmt::format("{} {}\n", texts[i], answers[i] == 'y' ? "yes" : "no");
    return text;
  };
  const auto q = policy("q", "all()", {kAll}, {.order = 1, .out = {kAll}, .ns = ""});
  check(
      {{at_host(host, in, 80), at_host(host, in, 81), at_host(host, out, 80), at_host(through, in, 80),
        at_host(through, in, 81), at_host(through, out, 80)},
       {{{e}, means("e:", "nnnyyy")},
        {{e, p({http}, normal)}, means("e: p", "ynnyyy")},
        {{e, p({http}, forward)}, means("e: p", "ynnynn")},
        {{e, p({http}, untracked)}, means("e: p", "ynyyyy")},
        {{e, p({http}, early)}, means("e: p", "ynnyyy")},
        {{e, p({with(http, Action::deny)}, early), q}, means("e: p q", "nyynyy")},
        {{e, p({with(http, Action::deny)}, untracked), q}, means("e: p q", "nyynyy")},
        {{e, p({kPass}, untracked), q}, means("e: p q", "yyyyyy")},
        // One that forwarded traffic is asked, behind what an early one allows: in is spared it, out is not.
        {{e, p({http}, untracked), policy("q", "all()", {kDeny}, {.out = {kDeny}, .ns = "", .apply_on_forward = true})},
         means("e: p q", "ynyynn")},
        {{e, p({http}, early), policy("q", "all()", {kDeny}, {.out = {kDeny}, .ns = "", .apply_on_forward = true})},
         means("e: p q", "ynnynn")},
        // The end of a tier refuses nothing early, whatever the tier says.
        {{e, tier("default", 1), p({}, early), q}, means("e: p q", "yyyyyy")},
        // All interfaces: not before connections are tracked.
        {{star, p({with(http, Action::deny)}, untracked), q}, means("e: q", "yyyyyy")},
        {{star, p({with(http, Action::deny)}, early), q}, means("e: p q", "nyynyy")},
        // What cannot be enforced closes what it is about.
        {{e, p({http}, {.do_not_track = true}), q}, means("e: p q !", "nnnnnn")},
        {{e, p({http}, {.do_not_track = true, .pre_dnat = true, .apply_on_forward = true}), q},
         means("e: q !", "nnnnnn")},
        {{e, p({http}, {.pre_dnat = true, .apply_on_forward = true}), q}, means("e: p q", "yyyyyy")}}});
}

// --- profiles --------------------------------------------------------------------------------------------------------

TEST(Scenarios, Profiles) {
  const EndpointOptions one{.profiles = {"one"}}, two{.profiles = {"two", "one"}};
  const auto e = endpoint(1, {}, one);
  const auto line = [](bool p80, bool p81, const char* policies = "") {
    return fmt::format("1:{}\n192.0.2.1 > 1 tcp 80 {}\n192.0.2.1 > 1 tcp 81 {}\n", policies, p80 ? "yes" : "no",
                       p81 ? "yes" : "no");
  };
  const auto http = allow(6, {{80, 80}});
  check({{to(1, "192.0.2.1", 80), to(1, "192.0.2.1", 81)},
         {{{e}, line(false, false)},
          {{e, profile("one", {}, {http})}, line(true, false)},
          {{e, profile("one", {}, {kAll})}, line(true, true)},
          {{endpoint(1, {}, two), profile("one", {}, {kAll}), profile("two", {}, {with(http, Action::deny)})},
           line(false, true)},
          {{endpoint(1, {}, two), profile("one", {}, {kAll}), profile("two", {}, {kPass})}, line(true, true)},
          {{endpoint(1, {}, two), profile("one", {}, {kAll})}, line(false, false)},
          {{e, profile("one", {}, {kAll}), policy("p", "all()", {http})}, line(true, false, " p")},
          {{e, profile("one", {}, {kAll}), policy("p", "all()", {with(http, Action::deny), kPass})},
           line(false, true, " p")},
          {{endpoint(1, {}), profile("one", {}, {kAll})}, line(false, false)}}});
}

TEST(Scenarios, LabelsOfProfiles) {
  const EndpointOptions worn{.profiles = {"one", "two"}};
  const auto p = policy("p", "role == 'web'", {kAll});
  const auto yes = "1: p\n192.0.2.1 > 1 tcp 80 yes\n";
  const auto no = "1:\n192.0.2.1 > 1 tcp 80 no\n";
  const auto web = profile("one", {{"role", "web"}}), db = profile("two", {{"role", "db"}});
  check({{to(1, "192.0.2.1", 80)},
         {{{endpoint(1, {}, worn), web, db, p}, yes},
          {{endpoint(1, {}, worn), profile("one", {{"role", "db"}}), db, p}, no},
          {{endpoint(1, {}, worn), profile("one", {}), profile("two", {{"role", "web"}}), p}, yes},
          {{endpoint(1, {{"role", "own"}}, worn), web, db, p}, no},
          {{endpoint(1, {{"role", "web"}}), web, p}, yes},
          // The profile leaves the endpoint while the policy goes by its label.
          {{endpoint(1, {}), web, p}, no},
          {{endpoint(1, {}, worn), db, p}, no}}});
}

TEST(Scenarios, LabelsOfNamespaces) {
  auto rule = allow();
  rule.source.namespace_selector = "env == 'prod'";
  const auto p = policy("p", "all()", {rule}, {.ns = ""});
  const EndpointOptions in_ns{.profiles = {"kns.openstack"}};
  check({{to(1, "10.0.0.2", 80)},
         {{{endpoint(1, {}), remote(2, {{"pcns.env", "prod"}}), p},
           "1: p\n(pcns.env == \"prod\" && all()) =\n10.0.0.2 > 1 tcp 80 no\n"},
          {{endpoint(1, {}), remote(2, {}, in_ns), profile("kns.openstack", {{"pcns.env", "prod"}}), p},
           "1: p\n(pcns.env == \"prod\" && all()) = 10.0.0.2\n10.0.0.2 > 1 tcp 80 yes\n"}}});
}

// --- network sets ----------------------------------------------------------------------------------------------------

TEST(Scenarios, NetworkSets) {
  const auto e = endpoint(1, {});
  const auto p = policy("p", "all()", {from_selector("has(a)")}, {.ns = ""});
  const auto line = [](const std::string& members, bool first, bool second) {
    return fmt::format("1: p\nhas(a) ={}\n12.0.0.1 > 1 tcp 80 {}\n13.0.0.1 > 1 tcp 80 {}\n", members,
                       first ? "yes" : "no", second ? "yes" : "no");
  };
  const auto one = net_set("one", {{"a", ""}}, {"12.0.0.0/24", "12.0.0.7/32"});
  check(
      {{to(1, "12.0.0.1", 80), to(1, "13.0.0.1", 80)},
       {{{e, p}, line("", false, false)},
        {{e, p, one}, line(" 12.0.0.0-12.0.0.255", true, false)},
        {{e, p, one, net_set("two", {{"a", ""}}, {"13.0.0.1/32"})}, line(" 12.0.0.0-12.0.0.255 13.0.0.1", true, true)},
        {{e, p, one, net_set("two", {{"b", ""}}, {"13.0.0.1/32"})}, line(" 12.0.0.0-12.0.0.255", true, false)},
        // An ancestor, what it covers, the middle gone.
        {{e, p, net_set("two", {{"a", ""}}, {"12.0.0.0/8", "12.0.0.0/16", "12.0.0.1/32"})},
         line(" 12.0.0.0-12.255.255.255", true, false)},
        {{e, p, net_set("two", {{"a", ""}}, {"12.0.0.0/8", "12.0.0.1/32"})},
         line(" 12.0.0.0-12.255.255.255", true, false)},
        {{e, p, net_set("two", {{"a", ""}}, {"12.0.0.1/32"})}, line(" 12.0.0.1", true, false)},
        {{e, p, one, net_set("all", {{"a", ""}}, {"0.0.0.0/0"})}, line(" 0.0.0.0-255.255.255.255", true, true)},
        // A namespace's own is nobody else's label, but a global policy sees it.
        {{e, p, net_set("one", {{"a", ""}}, {"13.0.0.0/24"}, "other")}, line(" 13.0.0.0-13.0.0.255", false, true)}}});
}

TEST(Scenarios, NetworkSetsOfANamespace) {
  const auto e = endpoint(1, {});
  const auto p = policy("p", "all()", {from_selector("has(a)")});
  const auto sel = "(" + kIn + "has(a)) =";
  check({{to(1, "12.0.0.1", 80)},
         {{{e, p, net_set("s", {{"a", ""}}, {"12.0.0.1/32"})}, "1: p\n" + sel + "\n12.0.0.1 > 1 tcp 80 no\n"},
          {{e, p, net_set("s", {{"a", ""}}, {"12.0.0.1/32"}, "openstack")},
           "1: p\n" + sel + " 12.0.0.1\n12.0.0.1 > 1 tcp 80 yes\n"},
          {{e, p, net_set("s", {{"a", ""}}, {"12.0.0.1/32"}, "other")}, "1: p\n" + sel + "\n12.0.0.1 > 1 tcp 80 no\n"},
          {{e, p, net_set("s", {{"a", ""}, {"projectcalico.org/namespace", "openstack"}}, {"12.0.0.1/32"})},
           "1: p\n" + sel + "\n12.0.0.1 > 1 tcp 80 no\n"}}});
}

// --- named ports -----------------------------------------------------------------------------------------------------

Rule to_port(const std::string& name, const std::string& selector = "", std::uint8_t protocol = 6) {
  auto r = allow(protocol);
  r.destination.named_ports = {name};
  if (!selector.empty()) r.destination.selector = selector;
  return r;
}
Kv server(int n, std::vector<NamedPort> ports, Labels labels = {}, std::vector<std::string> nets = {}) {
  return endpoint(n, std::move(labels), {.nets = std::move(nets), .ports = std::move(ports)});
}

TEST(Scenarios, NamedPorts) {
  const auto p = policy("p", "all()", {to_port("http")});
  const auto line = [](const std::string& members, bool p80, bool p81) {
    return fmt::format("1: p\nport http of all() ={}\n192.0.2.1 > 1 tcp 80 {}\n192.0.2.1 > 1 tcp 81 {}\n", members,
                       p80 ? "yes" : "no", p81 ? "yes" : "no");
  };
  check(
      {{to(1, "192.0.2.1", 80), to(1, "192.0.2.1", 81)},
       {{{server(1, {}), p}, line("", false, false)},
        {{server(1, {{"http", 6, 80}}), p}, line(" 10.0.0.1 . 80", true, false)},
        {{server(1, {{"http", 6, 81}}), p}, line(" 10.0.0.1 . 81", false, true)},
        {{server(1, {{"http", 6, 80}, {"http", 6, 81}, {"http", 6, 80}}), p},
         line(" 10.0.0.1 . 80 10.0.0.1 . 81", true, true)},
        {{server(1, {{"web", 6, 80}}), p}, line("", false, false)},
        {{server(1, {{"http", 17, 80}}), p}, line("", false, false)},
        {{server(1, {}), remote(2, {}, {.nets = {"10.0.0.1/32"}, .ports = {{"http", 6, 80}}}), p},
         line(" 10.0.0.1 . 80", true, false)},
        {{server(1, {{"http", 6, 80}}), remote(2, {}, {.nets = {"10.0.0.1/32"}, .ports = {{"http", 6, 80}}}), p},
         line(" 10.0.0.1 . 80", true, false)},
        {{server(1, {{"http", 6, 80}}, {}, {"10.0.0.1/32", "10.0.0.8/30"}), p}, line(" 10.0.0.1 . 80", true, false)}}});
}

TEST(Scenarios, NamedPortsWithSelectorsNumbersAndNegated) {
  const auto s = [](Labels labels, std::uint16_t port) { return server(1, {{"http", 6, port}}, std::move(labels)); };
  const auto line = [](const std::string& sets, bool p80, bool p81) {
    return fmt::format("1: p\n{}192.0.2.1 > 1 tcp 80 {}\n192.0.2.1 > 1 tcp 81 {}\n", sets, p80 ? "yes" : "no",
                       p81 ? "yes" : "no");
  };
  const auto global = [](Rule r) { return policy("p", "all()", {std::move(r)}, {.ns = ""}); };
  auto mixed = to_port("http");
  mixed.destination.ports = {{81, 81}};
  auto negated = allow(6);
  negated.destination.not_named_ports = {"http"};
  check({{to(1, "192.0.2.1", 80), to(1, "192.0.2.1", 81)},
         {{{s({{"a", ""}}, 80), global(to_port("http", "has(a)"))},
           line("port http of has(a) = 10.0.0.1 . 80\n", true, false)},
          {{s({}, 80), global(to_port("http", "has(a)"))}, line("port http of has(a) =\n", false, false)},
          {{s({}, 80), global(mixed)}, line("port http of all() = 10.0.0.1 . 80\n", true, true)},
          {{s({}, 80), global(negated)}, line("port http of all() = 10.0.0.1 . 80\n", false, true)},
          {{s({}, 81), global(negated)}, line("port http of all() = 10.0.0.1 . 81\n", true, false)},
          {{endpoint(1, {}, {.profiles = {"one"}, .ports = {{"http", 6, 80}}}), profile("one", {{"a", ""}}),
            global(to_port("http", "has(a)"))},
           line("port http of has(a) = 10.0.0.1 . 80\n", true, false)}}});
}

TEST(Scenarios, NamedPortsOfSources) {
  auto r = allow(6);
  r.source.named_ports = {"client"};
  const auto p = policy("p", "all()", {r}, {.ns = ""});
  const auto line = [](const std::string& members, bool second, bool third) {
    return fmt::format("1: p\nport client of all() ={}\n10.0.0.2 > 1 tcp 80 {}\n10.0.0.3 > 1 tcp 80 {}\n", members,
                       second ? "yes" : "no", third ? "yes" : "no");
  };
  const auto client = [](int n, std::uint16_t port, const std::string& net = "") {
    EndpointOptions o{.ports = {{"client", 6, port}}};
    if (!net.empty()) o.nets = {net};
    return remote(n, {}, o);
  };
  check({{to(1, "10.0.0.2", 80), to(1, "10.0.0.3", 80)},
         {{{endpoint(1, {}), client(2, 40000), p}, line(" 10.0.0.2 . 40000", true, false)},
          {{endpoint(1, {}), client(2, 40001), p}, line(" 10.0.0.2 . 40001", false, false)},
          {{endpoint(1, {}), client(2, 40001), client(3, 40000, "10.0.0.2/32"), p},
           line(" 10.0.0.2 . 40000 10.0.0.2 . 40001", true, false)},
          {{endpoint(1, {}), client(2, 40000), client(3, 40000), p},
           line(" 10.0.0.2 . 40000 10.0.0.3 . 40000", true, true)}}});
}

// --- what cannot be read ---------------------------------------------------------------------------------------------

TEST(Scenarios, GarbageClosesWhomItConcerns) {
  const auto e = endpoint(1, {{"a", ""}});
  const auto other = endpoint(2, {});
  const auto fine = policy("fine", "all()", {kAll});
  const Kv bad_rule{network_policy_key("openstack", "bad"),
                    R"j({"spec":{"selector":"has(a)","ingress":[{"action":"Perhaps"}]}})j"};
  const Kv bad_endpoint{key_of(2), R"({"spec":{"interfaceName":"tap2","mac":"no mac","ipNetworks":["10.0.0.2/32"]}})"};
  const auto line = [](const std::string& first, bool one, const std::string& second, bool two) {
    return fmt::format("1: {}\n2: {}\n192.0.2.1 > 1 tcp 80 {}\n192.0.2.1 > 2 tcp 80 {}\n", first, second,
                       one ? "yes" : "no", two ? "yes" : "no");
  };
  check({{to(1, "192.0.2.1", 80), to(2, "192.0.2.1", 80)},
         {{{e, other, fine}, line("fine", true, "fine", true)},
          {{e, other, fine, bad_rule}, line("bad fine !", false, "fine", true)},
          {{e, other, fine, policy("bad", "has(a)", {kAll})}, line("bad fine", true, "fine", true)},
          {{e, bad_endpoint, fine}, line("fine", true, "fine !", false)}}});
}

TEST(Scenarios, AProfileThatCannotBeReadRefuses) {
  const auto e = endpoint(1, {}, {.profiles = {"one"}});
  const auto p = policy("p", "has(a)", {kDeny, kPass}, {.ingress = false});
  const auto yes = "192.0.2.1 > 1 tcp 80 yes\n", no = "192.0.2.1 > 1 tcp 80 no\n";
  check({{to(1, "192.0.2.1", 80)},
         {{{e, p, profile("one", {{"a", ""}}, {kAll})}, std::string("1: p\n") + yes},
          {{e, p, {std::string(kProfiles) + "one", R"({"spec":{"labelsToApply":7}})"}}, std::string("1:\n") + no},
          {{e, p, profile("one", {}, {kAll})}, std::string("1:\n") + yes},
          {{e, p, {std::string(kProfiles) + "one", "{"}}, std::string("1:\n") + no}}});
}

}  // namespace
}  // namespace calico::model::scenarios
