// Policy from outside: a rule's text is refused in one printable line or reads back as itself; the BGP resources of the
// datastore are refused or become policies that answer.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/bgp/policy/bgp_filter.hpp"
#include "core/bgp/policy/policy_text.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

void one_line(const Error& e) {
  if (e.what.empty()) std::abort();
  for (const char c : e.what)
    if (static_cast<unsigned char>(c) < 0x20) std::abort();
}

void ask(std::vector<PolicyRule> rules) {
  auto policy = RoutePolicy::compile(std::move(rules), Default::accept);
  if (!policy) return one_line(policy.error());
  std::optional<Attrs> changed;
  for (const auto& prefix : {Prefix::host(Ip::v4(0x0a000001)), Prefix{Ip::v4(0x0a000000), 8}})
    (void)(*policy)->evaluate({.prefix = prefix}, Attrs{}, changed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto rule = parse_rule(text)) {
    auto again = parse_rule(to_string(*rule));
    if (!again || !(*again == *rule)) std::abort();
    ask({std::move(*rule)});
  } else {
    one_line(rule.error());
  }
  if (auto filter = model::parse_bgp_filter(text)) {
    if (auto rules = rules_of(*filter)) {
      ask(std::move(rules->import));
      ask(std::move(rules->exports));
    } else {
      one_line(rules.error());
    }
  } else {
    one_line(filter.error());
  }
  if (auto c = model::parse_bgp_configuration(text)) {
    if (auto rules = advertisement_rules(*c))
      ask(std::move(*rules));
    else
      one_line(rules.error());
  } else {
    one_line(c.error());
  }
  if (auto peer = model::parse_bgp_peer(text); !peer) one_line(peer.error());
  return 0;
}
