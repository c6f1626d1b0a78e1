#include "core/bgp/policy/policy_text.hpp"

#include <algorithm>
#include <charconv>

#include "core/base/overloaded.hpp"

namespace calico::bgp {
namespace {

constexpr std::string_view kConditions =
    "prefix, family, from, peer, interface, community, community_all, community_exact, path, path_contains, "
    "path_origin, path_neighbor, path_length, next_hop, origin, local_pref, med, each after 'not' if it must not hold; "
    "then set";
constexpr std::string_view kChanges =
    "local_pref N, med N|none, origin igp|egp|incomplete, next_hop self|keep|ADDRESS, prepend AS[xTIMES], "
    "community LIST|none, add_community LIST, delete_community LIST";

struct Name {
  std::string_view text;
  std::uint8_t mask;
};
constexpr Name kSources[] = {{"local", 1}, {"ibgp", 2}, {"ebgp", 4}, {"remote", 6}};
constexpr Name kPeers[] = {{"ibgp", 1}, {"ebgp", 2}};
constexpr Name kOrigins[] = {{"igp", 1}, {"egp", 2}, {"incomplete", 4}};

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view(".:@_-*").find(c) != std::string_view::npos;
}

/// Words by blanks; "…" keeps blanks together.
Result<std::vector<std::string>> words_of(std::string_view text) {
  std::vector<std::string> out;
  while (true) {
    const auto begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return out;
    text.remove_prefix(begin);
    if (text.front() == '"') {
      const auto end = text.find('"', 1);
      if (end == std::string_view::npos) return fail(Errc::invalid, "a '\"' without its end");
      out.emplace_back(text.substr(1, end - 1));
      text.remove_prefix(end + 1);
      continue;
    }
    const auto end = std::min(text.find_first_of(" \t"), text.size());
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string_view> items_of(std::string_view list) {
  std::vector<std::string_view> out;
  while (true) {
    const auto at = list.find(',');
    // A comma inside {24,32} belongs to the prefix.
    const auto brace = list.find('{');
    const auto close = list.find('}');
    const auto cut = brace < at && close != std::string_view::npos ? list.find(',', close) : at;
    out.push_back(list.substr(0, cut));
    if (cut == std::string_view::npos) return out;
    list.remove_prefix(cut + 1);
  }
}

template <class T, class Parse>
Result<std::vector<T>> list_of(std::string_view text, Parse parse) {
  std::vector<T> out;
  for (const auto item : items_of(text)) {
    auto v = parse(item);
    if (!v) return tl::unexpected(v.error());
    out.push_back(std::move(*v));
  }
  return out;
}

Result<std::uint32_t> number(std::string_view text, std::string_view what) {
  std::uint32_t v = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (text.empty() || ec != std::errc() || end != text.data() + text.size())
    return fail(Errc::invalid, "{}: '{}' is no number from 0 to 4294967295", what, shown(text));
  return v;
}

template <std::size_t N>
Result<std::uint8_t> mask_of(std::string_view text, const Name (&names)[N], std::string_view what) {
  std::uint8_t mask = 0;
  for (const auto item : items_of(text)) {
    const auto it = std::find_if(std::begin(names), std::end(names), [&](const Name& n) { return n.text == item; });
    if (it == std::end(names)) {
      std::string accepted;
      for (const auto& n : names) accepted += (accepted.empty() ? "" : ", ") + std::string(n.text);
      return fail(Errc::invalid, "{}: '{}' is not one of {}", what, shown(item), accepted);
    }
    mask |= it->mask;
  }
  return mask;
}

template <std::size_t N>
std::string names_of(std::uint8_t mask, const Name (&names)[N]) {
  std::string out;
  for (const auto& n : names)
    if ((n.mask & (n.mask - 1)) == 0 && (mask & n.mask) != 0) out += (out.empty() ? "" : ",") + std::string(n.text);
  return out;
}

template <class T, class Text>
std::string joined(const std::vector<T>& list, Text text) {
  std::string out;
  for (const auto& v : list) out += (out.empty() ? "" : ",") + text(v);
  return out;
}

std::string range_text(const NumberIn& n) {
  return n.min == n.max ? std::to_string(n.min) : fmt::format("{}-{}", n.min, n.max);
}

class Parser {
 public:
  explicit Parser(std::vector<std::string> words) : words_(std::move(words)) {}

  Result<PolicyRule> rule() {
    const auto verdict = next();
    if (verdict == "accept")
      rule_.then = PolicyRule::Then::accept;
    else if (verdict == "reject")
      rule_.then = PolicyRule::Then::reject;
    else if (verdict == "next")
      rule_.then = PolicyRule::Then::next;
    else
      return fail(Errc::invalid, "a rule begins with accept, reject or next, not '{}'", shown(verdict));
    while (!done()) {
      const auto word = next();
      auto ok = word == "set" ? changes() : condition(word);
      if (!ok) return tl::unexpected(ok.error());
    }
    return std::move(rule_);
  }

 private:
  bool done() const { return at_ == words_.size(); }
  std::string_view peek() const { return done() ? std::string_view() : words_[at_]; }
  std::string_view next() { return done() ? std::string_view() : words_[at_++]; }

  Result<std::string_view> value(std::string_view of) {
    if (done()) return fail(Errc::invalid, "'{}' has no value", of);
    return next();
  }

  Status condition(std::string_view word) {
    const bool negated = word == "not";
    if (negated) word = next();
    using Make = Result<Condition> (Parser::*)(std::string_view, std::string_view);
    struct Row {
      std::string_view name;
      Make make;
    };
    static constexpr Row kRows[] = {
        {"prefix", &Parser::prefix},
        {"family", &Parser::family},
        {"from", &Parser::from},
        {"peer", &Parser::peer},
        {"interface", &Parser::interface},
        {"community", &Parser::community},
        {"community_all", &Parser::community},
        {"community_exact", &Parser::community},
        {"path", &Parser::path},
        {"path_contains", &Parser::path_as},
        {"path_origin", &Parser::path_as},
        {"path_neighbor", &Parser::path_as},
        {"path_length", &Parser::range},
        {"local_pref", &Parser::range},
        {"med", &Parser::range},
        {"next_hop", &Parser::next_hop},
        {"origin", &Parser::origin},
    };
    for (const auto& row : kRows) {
      if (row.name != word) continue;
      auto v = value(word);
      if (!v) return tl::unexpected(v.error());
      auto c = (this->*row.make)(word, *v);
      if (!c) return tl::unexpected(c.error());
      c->negated = negated;
      rule_.conditions.push_back(std::move(*c));
      return {};
    }
    return fail(Errc::invalid, "'{}' is no condition; accepted: {}", shown(word), kConditions);
  }

  Result<Condition> prefix(std::string_view, std::string_view text) {
    auto entries = list_of<PrefixEntry>(text, parse_prefix_entry);
    if (!entries) return tl::unexpected(entries.error());
    std::optional<std::uint32_t> ge, le;
    while (peek() == "ge" || peek() == "le") {
      const auto word = next();
      auto n = number(next(), word);
      if (!n) return tl::unexpected(n.error());
      (word == "ge" ? ge : le) = *n;
    }
    if (ge || le)
      for (auto& e : *entries) {
        if (e.min != e.block.len || e.max != e.block.len) continue;  // has lengths of its own
        const auto lo = ge.value_or(e.block.len), hi = le.value_or(e.block.addr.bits());
        if (lo < e.block.len || lo > hi || hi > e.block.addr.bits())
          return fail(Errc::invalid, "lengths {} to {} do not fit {}", lo, hi, e.block);
        e.min = static_cast<std::uint8_t>(lo);
        e.max = static_cast<std::uint8_t>(hi);
      }
    return Condition{PrefixIn{PrefixList(std::move(*entries))}};
  }

  Result<Condition> family(std::string_view, std::string_view text) {
    if (text != "ipv4" && text != "ipv6") return fail(Errc::invalid, "family: '{}' is not ipv4 or ipv6", shown(text));
    return Condition{FamilyIs{text == "ipv4" ? Family::v4 : Family::v6}};
  }
  Result<Condition> from(std::string_view word, std::string_view text) {
    auto mask = mask_of(text, kSources, word);
    if (!mask) return tl::unexpected(mask.error());
    return Condition{SourceIs{*mask}};
  }
  Result<Condition> peer(std::string_view word, std::string_view text) {
    auto mask = mask_of(text, kPeers, word);
    if (!mask) return tl::unexpected(mask.error());
    return Condition{PeerIs{*mask}};
  }
  Result<Condition> origin(std::string_view word, std::string_view text) {
    auto mask = mask_of(text, kOrigins, word);
    if (!mask) return tl::unexpected(mask.error());
    return Condition{OriginIs{*mask}};
  }
  Result<Condition> interface(std::string_view, std::string_view text) {
    InterfaceIs c;
    for (const auto item : items_of(text)) {
      if (item.empty() || item.size() > 32 || !std::all_of(item.begin(), item.end(), is_name_character))
        return fail(Errc::invalid, "interface: '{}': 1 to 32 letters, digits or . : @ _ - and '*' for any text",
                    shown(item));
      c.globs.emplace_back(item);
    }
    return Condition{std::move(c)};
  }
  Result<Condition> community(std::string_view word, std::string_view text) {
    auto patterns = list_of<CommunityPattern>(text, CommunityPattern::parse);
    if (!patterns) return tl::unexpected(patterns.error());
    const auto mode = word == "community"       ? HasCommunity::Mode::any
                      : word == "community_all" ? HasCommunity::Mode::all
                                                : HasCommunity::Mode::exact;
    return Condition{HasCommunity{mode, std::move(*patterns)}};
  }
  Result<Condition> path(std::string_view, std::string_view text) {
    auto pattern = PathPattern::parse(text);
    if (!pattern) return tl::unexpected(pattern.error());
    return Condition{PathLike{std::move(*pattern)}};
  }
  Result<Condition> path_as(std::string_view word, std::string_view text) {
    auto ases = list_of<AsRange>(text, parse_as_range);
    if (!ases) return tl::unexpected(ases.error());
    const auto where = word == "path_contains" ? PathAs::Where::anywhere
                       : word == "path_origin" ? PathAs::Where::origin
                                               : PathAs::Where::neighbour;
    return Condition{PathAs{where, std::move(*ases)}};
  }
  Result<Condition> range(std::string_view word, std::string_view text) {
    const auto dash = text.find('-');
    auto lo = number(text.substr(0, dash), word);
    if (!lo) return tl::unexpected(lo.error());
    auto hi = dash == std::string_view::npos ? lo : number(text.substr(dash + 1), word);
    if (!hi) return tl::unexpected(hi.error());
    if (*lo > *hi) return fail(Errc::invalid, "{}: {} is more than {}", word, *lo, *hi);
    const auto field = word == "local_pref" ? NumberIn::Field::local_pref
                       : word == "med"      ? NumberIn::Field::med
                                            : NumberIn::Field::path_length;
    return Condition{NumberIn{field, *lo, *hi}};
  }
  Result<Condition> next_hop(std::string_view, std::string_view text) {
    std::vector<PrefixEntry> entries;
    for (const auto item : items_of(text)) {
      auto p = Prefix::parse(item);
      if (!p) return wrap(p.error(), "next_hop");
      entries.push_back({*p, p->addr.bits(), p->addr.bits()});
    }
    return Condition{NextHopIn{PrefixList(std::move(entries))}};
  }

  Status changes() {
    if (done()) return fail(Errc::invalid, "'set' has nothing after it; accepted: {}", kChanges);
    while (!done()) {
      if (peek() == "set") {
        next();
        continue;
      }
      const auto word = next();
      auto v = value(word);
      if (!v) return tl::unexpected(v.error());
      auto c = change(word, *v);
      if (!c) return tl::unexpected(c.error());
      rule_.changes.push_back(std::move(*c));
    }
    return {};
  }

  Result<Change> change(std::string_view word, std::string_view text) {
    if (word == "med" && text == "none") return RemoveMed{};
    if (word == "local_pref" || word == "med") {
      auto n = number(text, word);
      if (!n) return tl::unexpected(n.error());
      return SetNumber{word == "med" ? SetNumber::Field::med : SetNumber::Field::local_pref, *n};
    }
    if (word == "origin") {
      for (std::uint8_t o = 0; o < 3; ++o)
        if (kOrigins[o].text == text) return SetOrigin{o};
      return fail(Errc::invalid, "origin: '{}' is not igp, egp or incomplete", shown(text));
    }
    if (word == "next_hop") {
      if (text == "self" || text == "keep") return NextHopTo{text == "self"};
      auto ip = Ip::parse(text);
      if (!ip) return fail(Errc::invalid, "next_hop: '{}' is not self, keep or an address", shown(text));
      return SetNextHop{*ip};
    }
    if (word == "prepend") return prepend(text);
    const bool set = word == "community";
    if (set || word == "add_community" || word == "delete_community") {
      using How = ChangeCommunities::How;
      ChangeCommunities c{set ? How::set : word == "add_community" ? How::add : How::remove, {}};
      if (set && text == "none") return c;
      auto patterns = list_of<CommunityPattern>(text, CommunityPattern::parse);
      if (!patterns) return tl::unexpected(patterns.error());
      c.patterns = std::move(*patterns);
      return c;
    }
    return fail(Errc::invalid, "'{}' is no change; accepted: {}", shown(word), kChanges);
  }

  /// "65000x3,65001": 65000 65000 65000 65001.
  static Result<Change> prepend(std::string_view text) {
    Prepend p;
    for (const auto item : items_of(text)) {
      const auto x = item.find('x');
      auto as = number(item.substr(0, x), "prepend");
      if (!as) return tl::unexpected(as.error());
      auto times = x == std::string_view::npos ? Result<std::uint32_t>(1) : number(item.substr(x + 1), "prepend");
      if (!times) return tl::unexpected(times.error());
      if (*as == 0 || *times == 0 || p.ases.size() + *times > RoutePolicy::kMaxPrepend)
        return fail(Errc::invalid, "prepend: '{}': an AS, 1 to {} of them in all", shown(item),
                    RoutePolicy::kMaxPrepend);
      p.ases.insert(p.ases.end(), *times, Asn{*as});
    }
    return p;
  }

  std::vector<std::string> words_;
  std::size_t at_ = 0;
  PolicyRule rule_;
};

// --- printing --------------------------------------------------------------------------------------------------------

std::string patterns_text(const std::vector<CommunityPattern>& patterns) {
  return joined(patterns, [](const auto& p) { return p.to_string(); });
}

std::string text_of(const Condition& c) {
  return (c.negated ? " not " : " ") +
         std::visit(
             Overloaded{
                 [](const FamilyIs& x) { return std::string(x.family == Family::v4 ? "family ipv4" : "family ipv6"); },
                 [](const SourceIs& x) { return "from " + names_of(x.mask, kSources); },
                 [](const PeerIs& x) { return "peer " + names_of(x.mask, kPeers); },
                 [](const OriginIs& x) { return "origin " + names_of(x.mask, kOrigins); },
                 [](const NumberIn& x) {
                   return (x.field == NumberIn::Field::local_pref ? "local_pref "
                           : x.field == NumberIn::Field::med      ? "med "
                                                                  : "path_length ") +
                          range_text(x);
                 },
                 [](const PrefixIn& x) {
                   return "prefix " + joined(x.list.entries(), [](const PrefixEntry& e) { return to_string(e); });
                 },
                 [](const NextHopIn& x) {
                   return "next_hop " +
                          joined(x.list.entries(), [](const PrefixEntry& e) { return e.block.to_string(); });
                 },
                 [](const InterfaceIs& x) {
                   return "interface " + joined(x.globs, [](const auto& glob) { return glob; });
                 },
                 [](const PathAs& x) {
                   return (x.where == PathAs::Where::anywhere ? "path_contains "
                           : x.where == PathAs::Where::origin ? "path_origin "
                                                              : "path_neighbor ") +
                          joined(x.ases, [](const AsRange& r) { return to_string(r); });
                 },
                 [](const PathLike& x) { return "path \"" + x.pattern.to_string() + "\""; },
                 [](const HasCommunity& x) {
                   return (x.mode == HasCommunity::Mode::any   ? "community "
                           : x.mode == HasCommunity::Mode::all ? "community_all "
                                                               : "community_exact ") +
                          patterns_text(x.patterns);
                 },
             },
             c.what);
}

std::string text_of(const Change& c) {
  return std::visit(Overloaded{
                        [](const SetNumber& x) {
                          return fmt::format(" {} {}", x.field == SetNumber::Field::med ? "med" : "local_pref",
                                             x.value);
                        },
                        [](const RemoveMed&) { return std::string(" med none"); },
                        [](const SetOrigin& x) { return " origin " + std::string(kOrigins[x.origin % 3].text); },
                        [](const NextHopTo& x) { return std::string(x.self ? " next_hop self" : " next_hop keep"); },
                        [](const SetNextHop& x) { return " next_hop " + x.ip.to_string(); },
                        [](const Prepend& x) {
                          return " prepend " + joined(x.ases, [](const Asn& as) { return std::to_string(as.value); });
                        },
                        [](const ChangeCommunities& x) {
                          return std::string(x.how == ChangeCommunities::How::set   ? " community "
                                             : x.how == ChangeCommunities::How::add ? " add_community "
                                                                                    : " delete_community ") +
                                 (x.patterns.empty() ? "none" : patterns_text(x.patterns));
                        },
                    },
                    c);
}

}  // namespace

tl::unexpected<Error> printable(Error error) {
  for (auto& c : error.what)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  return tl::unexpected(std::move(error));
}

Result<PolicyRule> parse_rule(std::string_view text) {
  if (text.size() > kMaxRuleText)
    return fail(Errc::invalid, "a rule of {} bytes: at most {}", text.size(), kMaxRuleText);
  auto words = words_of(text);
  if (!words) return tl::unexpected(words.error());
  auto rule = Parser(std::move(*words)).rule();
  if (!rule) return printable(rule.error());
  // What only a compiled policy is asked for is said here as well, with the line it stands on.
  std::vector<PolicyRule> alone{*rule};
  if (auto ok = RoutePolicy::compile(std::move(alone), Default::reject); !ok) {
    auto what = ok.error().what;
    if (const auto at = what.find(": "); at != std::string::npos) what = what.substr(at + 2);
    return fail(Errc::invalid, "{}", what);
  }
  return rule;
}

std::string to_string(const PolicyRule& rule) {
  std::string out = rule.then == PolicyRule::Then::accept   ? "accept"
                    : rule.then == PolicyRule::Then::reject ? "reject"
                                                            : "next";
  for (const auto& c : rule.conditions) out += text_of(c);
  if (!rule.changes.empty()) out += " set";
  for (const auto& c : rule.changes) out += text_of(c);
  return out;
}

}  // namespace calico::bgp
